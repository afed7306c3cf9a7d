"""Purify jobs as a user runs them, and how fast they were by the files they left."""

import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from raypurify.runtime.progress import duration

LOOK = 0.2
GROUP = 2048


@dataclass(frozen=True)
class Job:
    """A job that has ended. ``begun`` is when its process was started, ``seconds`` how long that lived; ``commits``
    holds, for each shard in order of time, the seconds until it was committed, and its purified images."""

    begun: float
    seconds: float
    commits: list[tuple[float, int]]

    @property
    def startup(self) -> float:
        """Seconds until the first shard was committed: Python, Ray, the actors and that shard."""
        return self.commits[0][0]

    @property
    def rate(self) -> float:
        """Images per second of the whole command."""
        return sum(images for _, images in self.commits) / self.seconds

    def steady(self, actors: int) -> tuple[float, float, int, int]:
        """The steady part: when it began and ended, its shards and images.

        It goes from when as many shards are done as there are actors to the last shard. From the first shard on, it
        would count what the other actors had all but done by then.
        """
        if len(self.commits) <= actors:
            raise ValueError(f"{len(self.commits)} shards for {actors} actors have no steady part; give more images")
        counted = self.commits[actors:]
        return self.commits[actors - 1][0], counted[-1][0], len(counted), sum(images for _, images in counted)

    def steady_rate(self, actors: int) -> float:
        """Images per second of the steady part."""
        begun, ended, _, images = self.steady(actors)
        return images / (ended - begun)

    def record(self) -> dict:
        """The raw figures for a results file."""
        commits = [[round(seconds, 3), images] for seconds, images in self.commits]
        return {"seconds": round(self.seconds, 3), "commits": commits}


def run_job(
    source: Path, scratch: Path, *options: str, kept: Path | None = None, look: Callable[[int], object] | None = None
) -> Job:
    """Run ``raypurify purify`` in a process of its own, into a new folder; ``look(pid)`` is called every ``LOOK``
    seconds meanwhile. The folder is then removed, or moved to ``kept`` if there is nothing yet."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder, tempfile.TemporaryFile() as said:
        out = Path(folder) / "out"
        command = [Path(sys.executable).with_name("raypurify"), "purify", source, out, "--sheet", "0", *options]
        begun = time.time()
        with subprocess.Popen(command, stdout=said, stderr=said) as process:
            while process.returncode is None:
                if look:
                    look(process.pid)
                try:
                    process.wait(LOOK if look else None)
                except subprocess.TimeoutExpired:
                    continue
        seconds = time.time() - begun
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"raypurify purify failed: {said.read().decode(errors='replace')[-2000:]}")
        job = Job(begun, seconds, commits(out, begun))
        if kept and not kept.exists():
            out.rename(kept)
        return job


def commits(out: Path, begun: float) -> list[tuple[float, int]]:
    """When each shard of an output was committed, in seconds since ``begun``, and how many images it holds."""
    records = (out / "_raypurify" / "provenance").glob("*.parquet")
    return sorted((record.stat().st_mtime - begun, pq.read_metadata(record).num_rows) for record in records)


def results_in_turn(part: str, sides: dict, repeat: int) -> dict:
    """What every side returns, each called in turn ``repeat`` times; says how far it is."""
    found, took = {side: [] for side in sides}, {}
    waiting = list(sides) * repeat
    while waiting:
        side, begun = waiting.pop(0), time.monotonic()
        found[side].append(sides[side]())
        took[side] = time.monotonic() - begun
        usual = sum(took.values()) / len(took)
        left = duration(sum(took.get(other, usual) for other in waiting))
        runs = repeat * len(sides)
        print(f"{part}: {side} done, {runs - len(waiting)} of {runs} runs, about {left} left", flush=True)
    return found


def first_rows(files: list[Path], count: int) -> pa.Table:
    """The first rows of Parquet files in a row."""
    parts, left = [], count
    for file in files:
        if left:
            # Each file has metadata of its own.
            parts.append(pq.read_table(file)[:left].replace_schema_metadata())
            left -= len(parts[-1])
    if left:
        raise SystemExit(f"{count:,} images asked for, {count - left:,} are there")
    return pa.concat_tables(parts)


def write_parquet(rows: pa.Table, place: Path) -> Path:
    """A Parquet file of the rows; returns its path."""
    file = place.with_suffix(".parquet")
    # Whole shards of 256 lie in a row group.
    pq.write_table(rows, file, row_group_size=GROUP)
    return file


def write_folder(rows: pa.Table, place: Path) -> Path:
    """A folder of PNGs, numbered in the order of the rows; returns its path."""
    place.mkdir(parents=True)
    for number, data in enumerate(rows["image"].to_pylist()):
        Image.open(io.BytesIO(data)).save(place / f"{number:05d}.png")
    return place
