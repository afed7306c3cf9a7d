"""What else there is to purify, as it becomes known while a job is at work."""

from collections.abc import Callable, Iterator, Sequence

from raypurify.bulk.planning import Early
from raypurify.bulk.tally import More
from raypurify.containers.contract import Sink
from raypurify.containers.rows import Shard
from raypurify.containers.sink import missing
from raypurify.containers.source import Source
from raypurify.errors import SourceError
from raypurify.runtime.ahead import Ahead

ENDS_S = 10.0


class Growth:
    """The rest of an input of which ``source`` is the beginning: ``sources``, which come ``early``, are taken in a
    thread, and the output is claimed by ``claim`` for each. Called, it says what is new."""

    def __init__(
        self, source: Source, sources: Iterator[Source], early: Early, claim: Callable[[Source], Sink]
    ) -> None:
        self._known, self._early, self._claim = len(source.shards), early, claim
        self._ahead = Ahead(sources)
        self._sink: Sink | None = None
        self._error: SourceError | None = None

    def __call__(self) -> More | None:
        """What is known beyond the last call. Raises SinkError where the output cannot be claimed for it."""
        try:
            new = self._ahead.new()
        except SourceError as error:
            # What is known is done nevertheless.
            self._error = error
            return More([], [], last=True)
        if not new:
            return None
        shards = new[-1].shards[self._known :]
        self._known += len(shards)
        self._sink = self._claim(new[-1])
        return More([*shards], left_of(shards, self._sink), last=new[-1].seen_to is None)

    def whole(self) -> Sink:
        """The output as it was claimed for all of the input. Raises SourceError where that did not become known."""
        if self._error or self._sink is None:
            raise self._error or SourceError("the input was not looked into; run the same command again")
        return self._sink

    def close(self) -> None:
        """Look no further, and wait a little for files that are being looked into."""
        self._early.ended = True
        self._ahead.close(ENDS_S)


def left_of(shards: Sequence[Shard], sink: Sink) -> list[Shard]:
    """Those of some shards that are not committed."""
    left = set(missing(sink))
    return [shard for shard in shards if shard.name in left]
