"""What a purify job would do and cost, from a few of its images purified here."""

import os
import time
from dataclasses import dataclass, field
from functools import partial

import raypurify
from raypurify.containers.passed_over import passed_over_text
from raypurify.containers.selection import select
from raypurify.containers.source import Source, read_shard
from raypurify.errors import ImageError
from raypurify.images import MAX_PIXELS
from raypurify.runtime.progress import duration

MEASURED = 16


@dataclass(frozen=True)
class Estimate:
    """``rows`` images in ``shards``; of ``measured`` sampled ones ``failed`` could not be read, the others took
    ``seconds`` each on one core and became files of ``bytes`` each, on average. ``ignored`` is what the source passed
    over, by its reason, ``damaged`` how many of its files cannot be used."""

    rows: int
    shards: int
    measured: int
    failed: int
    seconds: float
    bytes: float
    ignored: dict[str, int] = field(default_factory=dict)
    damaged: int = 0

    def __str__(self) -> str:
        cores = os.cpu_count() or 1
        bad = f", {self.failed} of them unreadable" if self.failed else ""
        passed = [f"ignored:    {passed_over_text(self.ignored)}"] if self.ignored else []
        lost = [f"damaged:    {self.damaged:,} files, whose images are not counted"] if self.damaged else []
        return "\n".join(
            (
                f"images:     {self.rows:,} in {self.shards:,} shard{'s' * (self.shards != 1)}",
                *lost,
                *passed,
                f"measured:   {self.measured} images{bad}: {1e3 * self.seconds:.1f} ms an image on one core",
                f"whole job:  {_span(self.rows * self.seconds)} of core time, "
                f"{_span(self.rows * self.seconds / cores)} on {cores} cores like this one",
                f"output:     {self.rows * self.bytes / 1e6:,.1f} MB",
            )
        )


def estimate(
    source: Source, bundle: str, *, format: str = "png", max_pixels: int = MAX_PIXELS, compression: str = "small"
) -> Estimate:
    """Purify a seeded sample of ``MEASURED`` images on one core twice; the second counts, as the first compiles."""
    import torch

    from raypurify.purifiers.batch import purify_files, purify_pixels

    rows = [row for shard in select(source, sample=MEASURED).shards for row in read_shard(shard)]
    files = [(row.row, row.data) for row in rows if row.error is None and row.data is not None]
    threads, purify = torch.get_num_threads(), partial(purify_pixels, raypurify.load(bundle))
    torch.set_num_threads(1)
    try:
        for _ in range(2):
            begun = time.perf_counter()
            images = [data for _, data, _ in purify_files(purify, files, format, max_pixels, compression)]
            seconds = time.perf_counter() - begun
    finally:
        torch.set_num_threads(threads)
    good = [data for data in images if not isinstance(data, ImageError)]
    # Arrays hold pixels as they are.
    written = [data for _, data in files] if source.joins else good
    return Estimate(
        rows=source.rows,
        shards=len(source.shards),
        measured=len(rows),
        failed=len(rows) - len(good),
        seconds=seconds / len(rows),
        bytes=sum(map(len, written)) / len(rows),
        ignored=source.ignored,
        damaged=len(source.damaged),
    )


def _span(seconds: float) -> str:
    return duration(seconds) if seconds >= 10 else f"{seconds:.1f} s"
