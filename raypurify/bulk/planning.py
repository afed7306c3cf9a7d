"""Planning a purify job: its input in shards, as the job that its output belongs to was planned, on the cluster."""

import logging
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from raypurify.containers.look import Look
from raypurify.containers.looking import Looking, Seen, Unseen, in_threads
from raypurify.containers.selection import select
from raypurify.containers.sink import check_claimable, recorded_job
from raypurify.containers.source import Source, growing_source
from raypurify.errors import SinkError, SourceError
from raypurify.runtime.events import log_event
from raypurify.runtime.session import ray_session
from raypurify.runtime.tasks import in_tasks
from raypurify.storage import resolve

SMALL = 2048
# Files that threads of this process look into sooner than a Ray would have started.
_FEW_FILES, _FEW_BYTES = 64, 1 << 30
# A task that looks into small files has several.
_BUNDLE_FILES, _BUNDLE_BYTES = 32, 64 << 20
# When work begins on what is known, while the rest is looked into, and how often it is given more.
FIRST_S, PAUSE_S = 2.0, 10.0


class Early:
    """Says when so much more of an input is known that work on it should begin: not often, because all that is known is
    counted again each time. Once it is ``ended``, always, so that who takes no more is not kept waiting."""

    def __init__(self) -> None:
        self.ended = False
        self._next = time.monotonic() + FIRST_S

    def after(self, begun: str) -> Callable[[Seen], bool]:
        """Whether it is enough, and not less than what an earlier run knew, up to the file ``begun``."""

        def enough(seen: Seen) -> bool:
            if self.ended:
                return True
            if time.monotonic() < self._next or (seen.to or "") < begun:
                return False
            self._next = time.monotonic() + PAUSE_S
            # With fewer, shards are smaller.
            return sum(look.rows for look in seen.looks.values()) >= SMALL

        return enough


def planned_for(
    output: str,
    inputs: list[str],
    limit: int | None = None,
    sample: int | None = None,
    overwrite: bool = False,
    looking: Looking | None = None,
    **reading: Any,
) -> Source:
    """The images to purify in shards of 256, smaller ones where that would leave a laptop's second core idle.
    ``reading`` are options of ``open_source``.

    For a job that goes on, columns and members that are not named are those of the job ``output`` belongs to,
    and the shards are cut as that was, where files of it were damaged; unless it is to be overwritten.
    """
    *_, source = planned_in_parts(output, inputs, overwrite, looking or Looking(), **reading)
    return select(source, limit, sample)


def planned_in_parts(
    output: str,
    inputs: list[str],
    overwrite: bool,
    looking: Looking,
    early: Early | None = None,
    *,
    image_column: str | None = None,
    id_column: str | None = None,
    image_member: str | None = None,
    kind: str | None = None,
    follow_links: bool = False,
) -> Iterator[Source]:
    """The source of :func:`planned_for`, and where ``early`` also before it what is known of it, from time to time
    (:func:`raypurify.containers.source.growing_source`), unless ``output`` belongs to a job that knew all of it."""
    job = {} if overwrite else _recorded(output)
    recorded = job.get("source", {})
    begun = recorded.get("planned", {}).get("to")
    grow = partial(
        growing_source,
        inputs,
        labels=False,
        kind=kind,
        follow_links=follow_links,
        looking=looking,
        enough=early.after(begun or "") if early and (begun or not job) else lambda seen: False,
    )
    named: dict[str, Any] = {"image_column": image_column, "id_column": id_column, "image_member": image_member}
    before = {name: job.get("settings", {}).get(name) for name, given in named.items() if given is None}
    if any(before.values()) or recorded.get("shard_rows"):
        sources = grow(shard_rows=recorded.get("shard_rows") or _shard_rows, **named | before)
        try:
            first = next(sources)
        except SourceError:
            # Maybe another input, for which the output will be refused in words that fit.
            pass
        else:
            yield first
            yield from sources
            return
    yield from grow(shard_rows=_shard_rows, **named)


@contextmanager
def looking_for(
    output: str,
    overwrite: bool = False,
    strict: bool = False,
    reading: bool = False,
    address: str | None = None,
    here: bool = False,
    inputs: Sequence[str] = (),
) -> Iterator[Looking]:
    """How the job of an output looks into its input: by tasks of the cluster where there is much to look into, which is
    joined until the block ends, or ``here`` in any case. Damaged files are told of on standard error, unless
    ``strict``.

    Raises SinkError where the output can be that of no job over the ``inputs``.
    """
    check_claimable(output, overwrite, inputs)
    with ExitStack() as stack:
        yield Looking(
            each=in_threads if here else partial(_each, lambda: stack.enter_context(ray_session(address))),
            # What is overwritten is begun anew, and with it the looks.
            out=None if overwrite else resolve(output),
            reading=reading,
            damaged=None if strict else _Told(),
        )


class _Told:
    """Says each error once."""

    def __init__(self) -> None:
        self.said: set[str] = set()

    def __call__(self, error: SourceError) -> None:
        text = " ".join(str(error).split())
        if text not in self.said:
            self.said.add(text)
            log_event("left_out", f"raypurify: left out: {text}", logging.WARNING, aside=True, text=text)


def _each(
    join: Callable[[], object], function: Callable[[Unseen], Look | SourceError], items: Sequence[Unseen]
) -> Generator[Look | SourceError, None, None]:
    if len(items) <= _FEW_FILES and sum(item.size for item in items) <= _FEW_BYTES:
        yield from in_threads(function, items)
        return
    join()
    yield from in_tasks(function, _bundles(items), _lost)


def _bundles(items: Sequence[Unseen]) -> Iterator[list[Unseen]]:
    held: list[Unseen] = []
    size = 0
    for item in items:
        if held and (len(held) == _BUNDLE_FILES or size + item.size > _BUNDLE_BYTES):
            yield held
            held, size = [], 0
        held.append(item)
        size += item.size
    if held:
        yield held


def _lost(item: Unseen, why: str) -> SourceError:
    return SourceError(f"{item.path}: the process that looked into it died twice ({why}); get it again")


def _recorded(output: str) -> dict:
    try:
        return recorded_job(output)
    except SinkError:
        # Whoever claims the output says what is wrong with it.
        return {}


def _shard_rows(rows: int) -> int:
    return 256 if rows >= SMALL else max(16, -(-rows // 8))
