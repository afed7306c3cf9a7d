"""Progress before a person's eyes: a live line on a terminal, a plain line or an event now and then in a log."""

import contextvars
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from raypurify.runtime.events import as_json, is_quiet, log_event
from raypurify.runtime.progress import describe

State = dict[str, Any]


@contextmanager
def shown(title: str, read: Callable[[], State | None], every: float = 10.0) -> Iterator[None]:
    """Show the progress state that ``read()`` gives while the block runs, on standard error.

    On a terminal a bar is drawn anew a few times a second; elsewhere a line is printed every ``every`` seconds, and a
    last one at the end, which are events where those are written as JSON, and nothing where it is to be quiet.
    """
    console = Console(stderr=True, highlight=False)
    stop = threading.Event()

    def watch() -> None:
        if console.is_terminal and not as_json() and not is_quiet():
            _live(console, title, read, stop)
        else:
            _plain(title, read, stop, every)

    # What the events of the block are about, those of the thread are.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(watch,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _plain(title: str, read: Callable[[], State | None], stop: threading.Event, every: float) -> None:
    said = None
    while True:
        ended = stop.wait(every)
        state = read()
        if state and (line := describe(state)) != said:
            said = line
            facts = {name: state[name] for name in ("done", "total", "unit", "note")} | state.get("values", {})
            log_event("progress", f"{title}: {line}", aside=True, **facts)
        if ended:
            return


def _live(console: Console, title: str, read: Callable[[], State | None], stop: threading.Event) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[text]}", markup=False),
    )
    with Bar(*columns, console=console) as bar:
        task = bar.add_task(title, total=None, text="starting")
        while True:
            ended = stop.wait(0.3)
            if state := read():
                bar.update(task, completed=state["done"], total=state["total"], text=describe(state))
            if ended:
                return
