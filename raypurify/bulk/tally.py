"""What has become of the shards of a purify job so far, whoever does them."""

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from raypurify.bulk.work import ShardOutcome, Sign
from raypurify.containers.rows import Shard
from raypurify.errors import RaypurifyError, SinkError, SourceError
from raypurify.pictures import Pair
from raypurify.runtime.events import log_event
from raypurify.runtime.metrics import add_count
from raypurify.runtime.observed import observed
from raypurify.runtime.progress import Progress


class More(NamedTuple):
    """Shards that are known now, too, and of them those that are left to do; ``last`` where there will be no others."""

    shards: list[Shard]
    left: list[Shard]
    last: bool


class Tally:
    """The shards ``left`` of those of ``mine``, the progress of the job ``run``, and what there is to tell at its end;
    ``more`` says that not all shards are known."""

    def __init__(self, mine: list[Shard], shards: list[Shard], run: str, note: str, more: bool = False) -> None:
        self.run = run
        self.left = {shard.name: shard for shard in shards}
        self._count = len(mine)
        total, waiting = (sum(shard.rows for shard in some) for some in (mine, shards))
        self.progress = Progress(None, total, "images", start=total - waiting)
        self.progress.grow(0, 0, more)
        self.progress.add(0, note)
        self.pairs: list[Pair] = []
        self.undone: dict[str, RaypurifyError] = {}
        self.failed: Counter[str] = Counter()
        self._shards = [shard.name for shard in shards]

    @contextmanager
    def observed(self) -> Iterator[None]:
        """Tell of the job while the block does it, and how much is done when that is interrupted."""
        try:
            with observed(self.run, "purify", lambda: self.progress.state):
                if kept := self._count - len(self.left):
                    text = f"purify: going on, {kept} of {self._count} shards were done before and are kept"
                    log_event("stage_resumed", text, aside=True, shards=self._count, committed=kept)
                yield
        except KeyboardInterrupt:
            say("interrupted", f"{self._count - len(self.left)} of {self._count} shards are done and kept")
            raise

    def add(self, more: More) -> None:
        """Take up what else there is to do."""
        self.left |= {shard.name: shard for shard in more.left}
        self._shards += [shard.name for shard in more.left]
        self._count += len(more.shards)
        total, waiting = (sum(shard.rows for shard in some) for some in (more.shards, more.left))
        self.progress.grow(total, total - waiting, not more.last)

    def take(self, shard: Shard, said: Sign | ShardOutcome, where: str) -> None:
        """Take note of what is said of a shard on the machine ``where``. Raises SinkError where it cannot be
        written."""
        if isinstance(said, Sign):
            self.progress.reach(shard.name, said.done)
        elif isinstance(said.error, SinkError):
            raise said.error
        elif said.error:
            self.leave(shard.name, said.error)
        else:
            self._commit(said, shard.rows, where)

    def leave(self, shard: str, error: RaypurifyError) -> None:
        """Take note that a shard stays undone."""
        self.undone[shard] = error
        self._count_shard("undone")
        log_event("shard_failed", level=logging.ERROR, shard=shard, error=str(error))

    def refuse_undone(self) -> None:
        """Raise where shards were left undone, in the words of the first of them."""
        if not self.undone:
            return
        first = min(self.undone, key=self._shards.index)
        # Who reads a source asks for this error alone.
        read = all(isinstance(error, SourceError) for error in self.undone.values())
        raise (SourceError if read else RaypurifyError)(
            f"{len(self.undone)} of {len(self._shards)} shards could not be done, {first} first: {self.undone[first]}; "
            "all others are; the same command does the rest when this is mended"
        )

    def _commit(self, outcome: ShardOutcome, rows: int, where: str) -> None:
        self.left.pop(outcome.shard, None)
        self._count_shard("committed")
        log_event(
            "shard_committed",
            shard=outcome.shard,
            node=where,
            images=rows,
            purified=outcome.images["purified"],
            seconds=outcome.seconds,
        )
        self.failed.update({reason: n for reason, n in outcome.images.items() if reason != "purified"})
        self.progress.reach(outcome.shard, rows)
        self.progress.add(0, ", ".join(f"{n:,} {reason}" for reason, n in sorted(self.failed.items())))
        self.pairs += outcome.pairs

    def _count_shard(self, outcome: str) -> None:
        add_count("shards", "Shards that were committed or left undone.", {"run": self.run, "outcome": outcome})


def say(event: str, text: str, level: int = logging.INFO) -> None:
    """Log an event of a job, for people as ``text`` on standard error."""
    log_event(event, f"purify: {text}", level, aside=True, text=text)
