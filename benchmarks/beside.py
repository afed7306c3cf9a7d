"""How near an actor that decodes and encodes beside its purifier comes to the slower of the two.

    python benchmarks/beside.py --data DIR [--images 256] [--repeat 5] [--out FILE]

DIR holds ``imagenette224/val.parquet``, the first ``--images`` of which are written as PNG into one shard. What an
actor of a job does with it is timed, from the file to the commit, without Ray: ``inline``, one step after the other,
and ``beside``, with one thread that decodes and encodes. In turn with that are timed the two parts alone on one core:
the purifier on decoded images, and all files to pixels and all pixels to files. Purifiers work on one thread: that of
the bundle ``imagenet10``, and Tikhonov's low-pass, for one that is sooner done. A figure is the median, over
``--repeat`` rounds, of the slower part over the whole: 1 is an actor that waits for nothing. Needs two idle cores.
"""

import argparse
import io
import json
import statistics
import tempfile
import uuid
from functools import partial
from pathlib import Path

import numpy as np
import processes
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from bulk_job import first_rows
from PIL import Image
from timing import in_turn

from raypurify.bulk.actor import ShardActor
from raypurify.bulk.work import ShardOutcome, Work
from raypurify.containers.sink import open_sink
from raypurify.containers.source import open_source
from raypurify.images import MAX_PIXELS, decode_image, encode_image, to_float, to_pixels
from raypurify.purifiers.low_pass import LowPass
from raypurify.runtime.poison import Care

RESULTS = Path(__file__).parent / "results" / "beside.json"
BUNDLE = "imagenet10"
PARTS, WHOLES = ("purifier", "files"), ("inline", "beside")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    results = {
        "command": f"python benchmarks/beside.py --data DIR --images {arguments.images} --repeat {arguments.repeat}",
        "machine": processes.machine(),
        "images": arguments.images,
        "cases": {},
    }
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        files = as_png(arguments.data, arguments.images)
        pq.write_table(pa.table({"image": files}), place / "in.parquet")
        for name in ("bundle", "low-pass"):
            results["cases"][name] = measure(place, files, name == "low-pass", arguments.repeat)
            print(name, json.dumps(results["cases"][name]), flush=True)
    arguments.out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(table(results))


def as_png(data: Path, count: int) -> list[bytes]:
    files = []
    for file in first_rows([data / "imagenette224" / "val.parquet"], count)["image"].to_pylist():
        out = io.BytesIO()
        Image.open(io.BytesIO(file)).convert("RGB").save(out, "PNG")
        files.append(out.getvalue())
    return files


def measure(place: Path, files: list[bytes], plain: bool, repeat: int) -> dict:
    """Seconds of an actor with and without a thread beside its purifier, and of its parts alone."""
    actors = {"inline": actor_of(place, plain, 0), "beside": actor_of(place, plain, 1)}
    opened = [decode_image(file) for file in files]
    images = [one.pixels for one in opened]
    purified = [result[0] for result in actors["inline"].purify(images)]

    def coded() -> None:
        for file in files:
            decode_image(file)
        for pixels, like in zip(purified, opened):
            encode_image(pixels, like)

    # An actor with a thread beside gives the purifier a batch at a time, which makes no difference to it.
    sides = {"purifier": partial(actors["inline"].purify, images), "files": coded}
    sides |= {name: partial(work_off, place, actor) for name, actor in actors.items()}
    times = in_turn(sides, repeat)
    slower = [max(pair) for pair in zip(*(times[part] for part in PARTS))]
    return {
        "seconds": {side: [round(value, 3) for value in values] for side, values in times.items()},
        "reached": {side: statistics.median(map(_over, slower, times[side])) for side in WHOLES},
        "range": {
            side: [min(map(_over, slower, times[side])), max(map(_over, slower, times[side]))] for side in WHOLES
        },
    }


def _over(part: float, whole: float) -> float:
    return round(part / whole, 3)


def actor_of(place: Path, plain: bool, coders: int) -> ShardActor:
    """An actor on one thread; a ``plain`` one purifies by Tikhonov's low-pass instead of by its bundle."""
    actor = ShardActor(Work(BUNDLE, sink_of(place), MAX_PIXELS, frozenset(), coders=coders))
    actor.start()
    if plain:
        actor.purify = low_passed
    return actor


def sink_of(place: Path):
    return open_sink(place / uuid.uuid4().hex, open_source(place / "in.parquet"), settings={})


def work_off(place: Path, actor: ShardActor) -> None:
    """Do the only shard."""
    source = open_source(place / "in.parquet")
    *_, outcome = actor.do(source.shards[0], Care())
    assert isinstance(outcome, ShardOutcome)
    assert outcome.images == {"purified": source.rows}, outcome


def low_passed(images: list[np.ndarray]) -> list:
    """Images by fives, as ``purify_pixels`` purifies those of 224²."""
    facts = {"cluster": 0, "class": "", "distance": 0.0, "flagged": False, "relative_change": 0.0, "iterations": 0}
    results = []
    for first in range(0, len(images), 5):
        batch = torch.from_numpy(np.stack([to_float(image) for image in images[first : first + 5]]))
        results += [(to_pixels(image.numpy()), facts | {"bundle": ""}) for image in LowPass().purify(batch).images]
    return results


def table(results: dict) -> str:
    lines = [
        "| purifier, one thread | purifier alone | PNG to PNG alone | one after the other | beside "
        "| slower over whole: one after the other | beside |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, facts in results["cases"].items():
        each = [
            f"{1e3 * statistics.median(facts['seconds'][side]) / results['images']:.3g} ms"
            for side in (*PARTS, *WHOLES)
        ]
        reached = ["{:.2f} ({:.2f} to {:.2f})".format(facts["reached"][side], *facts["range"][side]) for side in WHOLES]
        lines.append(f"| {name} | {' | '.join(each + reached)} |")
    rounds = len(results["cases"]["bundle"]["seconds"]["beside"])
    lines += [
        "",
        f"n = {results['images']} images in a shard, {rounds} rounds, {results['machine']['cpu']}, two cores.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
