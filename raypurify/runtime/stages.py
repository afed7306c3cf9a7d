"""A stage is a pure step over files: done once per fingerprint, resumed when interrupted, redone when inputs change."""

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raypurify.errors import SinkError
from raypurify.files import fingerprint, read_json, write_json
from raypurify.runtime.display import shown
from raypurify.runtime.progress import FILE, describe, duration

MARKER = "stage.json"


@dataclass(frozen=True)
class StageOutput:
    """The output of a complete stage: its folder, its fingerprint (an input of later stages), and what it reported."""

    folder: Path
    fingerprint: str
    report: dict[str, Any]


def run_stage(
    run_dir: Path, name: str, settings: dict[str, Any], inputs: tuple[str, ...], body: Callable[[Path], dict[str, Any]]
) -> StageOutput:
    """Bring ``run_dir/name`` to completion and return it.

    Skipped when a complete output of the same fingerprint is there. When an incomplete one of the same fingerprint is
    there, ``body(folder)`` finds what an interrupted run left and goes on from it; anything else is removed first.
    """
    folder, mark = run_dir / name, fingerprint(name, settings, inputs)
    marker = read_json(folder / MARKER) or {}
    if marker.get("fingerprint") == mark and marker.get("state") == "complete":
        print(f"{name}: complete, skipped", flush=True)
        return StageOutput(folder, mark, marker["report"])
    if marker.get("fingerprint") != mark:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    else:
        print(f"{name}: going on from an interrupted run", flush=True)
    begun = time.time()
    write_json(folder / MARKER, {"fingerprint": mark, "state": "running", "begun": begun, "settings": settings})
    (folder / FILE).unlink(missing_ok=True)
    with shown(name, lambda: read_json(folder / FILE)):
        report = body(folder)
    seconds = time.time() - begun
    complete = {
        "fingerprint": mark,
        "state": "complete",
        "seconds": round(seconds, 1),
        "settings": settings,
        "report": report,
    }
    write_json(folder / MARKER, complete)
    facts = ", ".join(f"{k} {_short(v)}" for k, v in report.items() if isinstance(v, int | float | str))
    print(f"{name}: done in {duration(seconds)}" + (f" ({facts})" if facts else ""), flush=True)
    return StageOutput(folder, mark, report)


def stage_lines(run_dir: Path, names: tuple[str, ...]) -> list[tuple[str, str, str]]:
    """Stage, state and what is known of it, for each stage of a run, from its files alone."""
    lines = []
    for name in names:
        marker, progress = read_json(run_dir / name / MARKER), read_json(run_dir / name / FILE)
        if marker is None:
            lines.append((name, "waiting", ""))
        elif marker["state"] == "complete":
            lines.append((name, "complete", duration(marker["seconds"])))
        else:
            idle = time.time() - progress["updated"] if progress else 0
            text = describe(progress) if progress else ""
            lines.append((name, "running", text + (f", last sign {duration(idle)} ago" if idle > 60 else "")))
    return lines


@contextmanager
def only_one(run_dir: Path) -> Iterator[None]:
    """Hold the run directory: a second run on it is refused; the hold ends with the process, however it ends."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        handle = os.open(run_dir / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as e:
        raise SinkError(f"cannot write the run directory {run_dir}: {e.strerror}; choose another --run-dir") from e
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            raise SinkError(f"another run is working in {run_dir}: wait for it, or choose another --run-dir") from e
        yield
    finally:
        os.close(handle)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
