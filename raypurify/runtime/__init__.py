"""Ray without our subject: nothing here knows what an image is.

* ``session``: have Ray for the length of a block, the cluster there is or a local one (``ray_session``).
* ``resources``: the CPUs, GPUs and nodes of that cluster (``cluster_resources``).
* ``pool``: actors that work off items and outlive any of their number (``work_off``; ``Pool`` says what happens).
* ``stages``: a step over files, done once per fingerprint, resumed when interrupted (``run_stage``), in a run directory
  that one run holds at a time (``open_run``).
* ``progress``: how far work is, in a file that anyone can read; ``display``: the same before a person's eyes.
* ``observed``: a stage while it runs, told to people, as ``events`` to logs, and as ``metrics`` to Prometheus.

Ray is imported inside functions: files of a run are read, and their progress told, without it.

**To run new work on Ray:** give ``work_off`` items that are named by what they write, and an actor that writes each
file whole (``Place.write``); then a lost node, or a killed job, costs no more than the items in flight.
"""
