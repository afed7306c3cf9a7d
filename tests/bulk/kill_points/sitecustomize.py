"""On PYTHONPATH, kills a process at a named point of a purify job, once; the code under test knows nothing of it.

KILL_PLAN names a JSON file: ``point`` (below), ``count`` (the how-manieth time in one process), ``target``: "worker"
(the process that gets there), "node" (its raylet) or "driver" (the process of the job), ``input`` (the job's input),
``scratch`` (the folder of its output's temporary files), ``done`` (a file that is made when it happens).

    read       an input file was opened            written    a temporary file is whole, not yet renamed
    solve      sparse coding has just begun        renamed    it stands under its name
    write      a temporary file is half written
    put        an object is about to be sent to a store      stored     it is there

A process that cannot watch its point, as a function has another name by now, ends at once and says so.
"""

import ast
import builtins
import importlib.util
import itertools
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

# Functions of the package that make points known; the others are seen at open and os.replace.
WATCHED = {
    "solve": "raypurify.purifiers.rewriting.solve_cbpdn",
    "put": "raypurify.storage.Place.write",
    "stored": "raypurify.storage.Place.write",
}
POINTS = ("read", "write", "written", "renamed", *WATCHED)
UNWATCHED = 3
RAYLET = os.environ.get("RAY_RAYLET_PID")


def install(plan: dict) -> None:
    refuse_what_cannot_be_watched(plan["point"])
    times = itertools.count(1)

    def reached(point: str) -> None:
        if point != plan["point"] or (plan["target"] != "driver" and RAYLET is None):
            return
        # One step, as several threads may get here at once.
        if next(times) != plan["count"]:
            return
        try:
            os.close(os.open(plan["done"], os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        os.kill(
            {"worker": os.getpid(), "node": int(RAYLET or 0), "driver": plan["driver"]}[plan["target"]], signal.SIGKILL
        )

    def ours(path) -> bool:
        return isinstance(path, str) and path.startswith(plan["scratch"] + "/")

    replace, opened = os.replace, builtins.open

    def watched_replace(source, target, **options):
        if ours(source):
            reached("written")
        replace(source, target, **options)
        if ours(source):
            reached("renamed")

    class Half:
        """A file whose bytes arrive in two halves."""

        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def write(self, data):
            self.file.write(data[: len(data) // 2])
            self.file.flush()
            reached("write")
            self.file.write(data[len(data) // 2 :])

    def watched_open(file, mode="r", *args, **options):
        handle = opened(file, mode, *args, **options)
        if mode == "rb" and isinstance(file, str) and file.startswith(plan["input"] + "/"):
            watch_solver()
            reached("read")
        return Half(handle) if mode == "wb" and ours(file) else handle

    def watch_solver() -> None:
        name, _, function = WATCHED["solve"].rpartition(".")
        module = sys.modules.get(name)
        if module is None or hasattr(getattr(module, function), "watched"):
            return
        solve = getattr(module, function)

        def watched(*args, **options):
            threading.Thread(target=lambda: (time.sleep(0.002), reached("solve")), daemon=True).start()
            return solve(*args, **options)

        watched.watched = True
        setattr(module, function, watched)

    os.replace, builtins.open = watched_replace, watched_open
    if "://" in plan["input"] and any("default_worker" in argument for argument in sys.orig_argv):
        watch_store(reached)


def refuse_what_cannot_be_watched(point: str) -> None:
    lost = sorted({name for name in WATCHED.values() if not stands_in_source(name)})
    if point in POINTS and not lost:
        return
    what = f"no such function: {', '.join(lost)}" if lost else f"no point {point!r}, only {', '.join(POINTS)}"
    print(f"{__file__}: nothing can be killed: {what}; follow what was renamed", file=sys.stderr, flush=True)
    # Python passes over most exceptions of this module.
    os._exit(UNWATCHED)


def stands_in_source(name: str) -> bool:
    """Whether the module's text has this function, method or import. Importing it would slow down every process."""
    package, *parts = name.split(".")
    spec = importlib.util.find_spec(package)
    place = Path(spec.submodule_search_locations[0]) if spec else Path(package)
    while parts and (place / parts[0]).is_dir():
        place /= parts.pop(0)
    file = place / f"{parts.pop(0)}.py"
    node = ast.parse(file.read_text("utf-8")) if file.exists() else None
    for part in parts:
        node = next((child for child in getattr(node, "body", ()) if part in names_made_by(child)), None)
    return node is not None


def names_made_by(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name for alias in node.names}
    return {node.name} if isinstance(node, ast.FunctionDef | ast.ClassDef) else set()


def watch_store(reached) -> None:
    from raypurify.storage import Place

    put = Place.write

    def watched(place, data, scratch):
        reached("put")
        put(place, data, scratch)
        reached("stored")

    Place.write = watched


if os.path.exists(os.environ.get("KILL_PLAN", "")):
    with open(os.environ["KILL_PLAN"], encoding="utf-8") as _file:
        install(json.load(_file) | {"driver": int(os.environ.get("KILL_DRIVER") or os.getpid())})
