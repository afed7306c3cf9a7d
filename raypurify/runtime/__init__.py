"""Ray without our subject: sessions, pools of actors, stages of a run, progress and its display."""
