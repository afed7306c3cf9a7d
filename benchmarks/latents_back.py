"""What k-means spends on reading latents back: all that a fit can save that keeps them in memory.

    python benchmarks/latents_back.py [--images 50000] [--features 128] [--classes 10] [--milliseconds 20]

The files are those that the stage writes for so many images, of zeros, on this disk and on the object store that the
tests start, ``far_store.py``'s milliseconds away. The driver looks at all of them, then a process reads one class after
another, as the tasks of a fit do beside each other.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "tests"))

import object_store  # noqa: E402
from far_store import far  # noqa: E402

from raypurify.fit.class_latents import pieces_of, read_latents  # noqa: E402
from raypurify.fit.latents import BATCH, PARTS, WRITE_ROWS  # noqa: E402
from raypurify.storage import Place, overlapped, resolve  # noqa: E402

RESULTS = HERE / "results" / "latents_back.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50000)
    parser.add_argument("--features", type=int, default=128)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--milliseconds", type=float, default=20)
    chosen = parser.parse_args()
    os.environ |= {"AWS_ACCESS_KEY_ID": object_store.KEY, "AWS_SECRET_ACCESS_KEY": object_store.SECRET}
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (scratch / "store").mkdir()
        store = stack.enter_context(object_store.running(scratch / "store"))
        there = stack.enter_context(far(store.endpoint, chosen.milliseconds))
        places = {
            "disk": resolve(scratch / "run"),
            "store": resolve(store.uri().replace(store.endpoint, there)) / "run",
        }
        results = {"command": " ".join(["python", "benchmarks/latents_back.py", *sys.argv[1:]]), **vars(chosen)}
        for name, place in places.items():
            results[name] = measure(place, chosen.images, chosen.features, chosen.classes)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


def measure(place: Place, images: int, features: int, classes: int) -> dict[str, float]:
    # As in ``extract_latents``.
    unit = -(-min(32768, max(1024, images // 16)) // BATCH) * BATCH
    schema = pa.schema({"row": pa.int64(), "latent": pa.list_(pa.float32(), features)})
    folders = [place / PARTS / f"label={c}" for c in range(classes)]

    def write(file: tuple[Place, int]) -> None:
        with (
            file[0].writing() as out,
            pq.ParquetWriter(out, schema, use_dictionary=False, compression="none") as writer,
        ):
            for count in [WRITE_ROWS] * (file[1] // WRITE_ROWS) + [file[1] % WRITE_ROWS]:
                latents = pa.FixedSizeListArray.from_arrays(np.zeros(count * features, np.float32), features)
                writer.write_table(pa.Table.from_arrays([pa.array(np.arange(count)), latents], schema=schema))

    units = [min(unit, images - first) for first in range(0, images, unit)]
    files = [(folder / f"{n:05d}.parquet", rows // classes) for folder in folders for n, rows in enumerate(units)]
    for _ in overlapped(write, files):
        pass
    begun = time.perf_counter()
    pieces = list(overlapped(pieces_of, folders))
    looked = time.perf_counter()
    for some in pieces:
        read_latents(some)
    read = time.perf_counter()
    facts = {"files": len(files), "look": looked - begun, "a_class": (read - looked) / classes}
    return {name: round(value, 3) for name, value in facts.items()}


if __name__ == "__main__":
    main()
