"""A stage is a pure step over files: done once per fingerprint, resumed when interrupted, redone when inputs change."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from raypurify.containers.lease import held
from raypurify.errors import RaypurifyError, SinkError, of_file
from raypurify.files import fingerprint, read_object, write_json
from raypurify.runtime.events import log_event
from raypurify.runtime.observed import observed
from raypurify.runtime.progress import FILE, STORE_INTERVAL, describe, duration, read_state
from raypurify.storage import Place, Where, redact, resolve

MARKER = "stage.json"


@dataclass(frozen=True)
class StageOutput:
    """The output of a complete stage: its folder, its fingerprint (an input of later stages), and what it reported."""

    folder: Place
    fingerprint: str
    report: dict[str, Any]


def run_stage(
    run_dir: Place,
    name: str,
    settings: dict[str, Any],
    inputs: tuple[str, ...],
    body: Callable[[Place], dict[str, Any]],
) -> StageOutput:
    """Bring ``run_dir/name`` to completion and return it.

    Skipped when a complete output of the same fingerprint is there. When an incomplete one of the same fingerprint is
    there, ``body(folder)`` finds what an interrupted run left and goes on from it; anything else is removed first.
    """
    folder, mark = run_dir / name, fingerprint(name, settings, inputs)
    with telling(folder):
        marker = _marker(folder, "report", dict) or {}
    if marker.get("fingerprint") == mark and marker.get("state") == "complete":
        log_event("stage_skipped", f"{name}: complete, skipped", run=str(run_dir), stage=name)
        return StageOutput(folder, mark, marker["report"])
    if marker.get("fingerprint") != mark:
        folder.delete_folder()
        folder.make_folder()
    else:
        log_event("stage_resumed", f"{name}: going on from an interrupted run", run=str(run_dir), stage=name)
    begun = time.time()
    write_json(folder / MARKER, {"fingerprint": mark, "state": "running", "begun": begun, "settings": settings})
    (folder / FILE).delete()
    with observed(str(run_dir), name, _reader(folder)):
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
    told = {k: v for k, v in report.items() if isinstance(v, int | float | str)}
    facts = ", ".join(f"{k} {_short(v)}" for k, v in told.items())
    plain = f"{name}: done in {duration(seconds)}" + (f" ({facts})" if facts else "")
    log_event("stage_report", plain, run=str(run_dir), stage=name, report=told)
    return StageOutput(folder, mark, report)


def stage_lines(run_dir: Place, names: tuple[str, ...]) -> list[tuple[str, str, str]]:
    """Stage, state and what is known of it, for each stage of a run, from its files alone. Raises SinkError naming a
    marker that is damaged."""
    lines = []
    for name in names:
        marker, progress = _marker(run_dir / name, "seconds", int | float), read_state(run_dir / name)
        if marker is None:
            lines.append((name, "waiting", ""))
        elif marker["state"] == "complete":
            lines.append((name, "complete", duration(marker["seconds"])))
        else:
            idle = time.time() - progress["updated"] if progress else 0
            text = describe(progress) if progress else ""
            lines.append((name, "running", text + (f", last sign {duration(idle)} ago" if idle > 60 else "")))
    return lines


def resolved_run(run_dir: Where) -> Place:
    """The place of a run directory, whose ``~`` is the user's home. Raises SinkError where it is out of reach."""
    try:
        return resolve(run_dir if isinstance(run_dir, Place) else os.path.expanduser(run_dir))
    except (OSError, ValueError, ImportError) as e:
        raise SinkError(f"cannot use the run directory {redact(run_dir)}: {e}; check the path") from e


@contextmanager
def open_run(run_dir: Where) -> Iterator[Place]:
    """Hold a run directory, a folder or a URI, for this process alone while the block runs; yields it. Raises
    SinkError where another run works in it, or it cannot be reached or written, also in the middle.
    """
    place = resolved_run(run_dir)
    with held(place), telling(place):
        yield place


@contextmanager
def telling(place: Place) -> Iterator[None]:
    """Turn what a disk or a store refuses in the block, here or in a task, into a SinkError."""
    try:
        yield
    except RaypurifyError:
        raise
    except OSError as e:
        why = " ".join(str(getattr(e, "cause", None) or e).split())[:300]
        raise SinkError(f"{place}: {why}; mend that, and run the same command again, which goes on from here") from e


def _marker(folder: Place, asked: str, kind: Any) -> dict[str, Any] | None:
    """What the marker of a stage says, None where it has not begun. Raises SinkError where the marker is damaged, or of
    a complete stage does not say what is ``asked``, of this ``kind``."""
    file = folder / MARKER
    try:
        marker = read_object(file)
        if marker is not None and marker.get("state") not in ("running", "complete"):
            raise ValueError("it does not say how far the stage is")
        if marker and marker["state"] == "complete" and not isinstance(marker.get(asked), kind):
            raise ValueError(f"it has no {asked}")
    except ValueError as e:
        raise SinkError(
            f"{file} is damaged: {of_file(e)}; delete the folder {folder}, which the same run makes anew, or get that "
            "file again"
        ) from e
    return marker


def _reader(folder: Place) -> Callable[[], Any]:
    """Reads the progress of a stage, from a store as often as it is written there."""
    state, at = None, 0.0

    def read() -> Any:
        nonlocal state, at
        if not folder.remote or time.monotonic() - at >= STORE_INTERVAL:
            at = time.monotonic()
            with suppress(OSError):
                state = read_state(folder)
        return state

    return read


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
