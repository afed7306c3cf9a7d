"""What it costs to begin a job of 1.28 million images, to begin it again, and to sum it up.

    .venv/bin/python benchmarks/planning.py --scratch /tmp --out benchmarks/results/planning.json

For a folder tree of hard links, 1,300 tars and 1,024 Parquet files of tiny images: the seconds until there are shards
to work on, and to the whole plan, with nobody at work on them; those of a restart; of a restart that finds half of the
shards committed, until it knows what is left; and of ``raypurify status``. Then a restart with the merge of the whole
ledger. Each is a process of its own that has loaded what a job's driver loads, so its peak of memory is a driver's;
seconds are on the clock and of the driver's CPU, tasks in other processes not counted. ``--ledger ROWS`` asks the same
of a ledger of so many rows alone. The records of shards are those that a job commits, without their images. ``--store``
asks it of a folder in a store that another process of this machine plays (``fake_store.py``): it is as slow as one that
is far away, and takes its part of the same cores.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from fake_store import BUCKET, PIXEL
from processes import machine

from raypurify.containers import ledger
from raypurify.containers.sink import open_sink
from raypurify.storage import Place, overlapped, resolve

IMAGES, TARS, TABLES, CLASSES = 1_280_000, 1300, 1024, 1000
MEASURED = """
import json, resource, sys, time
begun, cpu = time.monotonic(), time.process_time()
import raypurify.bulk.job
from raypurify.bulk.planning import Early, looking_for, planned_in_parts
from raypurify.containers import ledger
from raypurify.containers.contract import Sink
from raypurify.containers.sink import finish, missing, open_sink
from raypurify.runtime.session import ray_session
from raypurify.storage import resolve
source, out, what = sys.argv[1:]
facts = {"imports": time.monotonic() - begun}
begun, cpu = time.monotonic(), time.process_time()
if what == "merge alone":
    job = ledger.known_job(resolve(out))
    names = [f"part-{k:05d}" for k in range(job["source"]["shards"])]
    facts["written"] = ledger.merge_parts(resolve(out), names, job["source"]["rows"], {}).written
elif what == "status alone":
    facts["written"] = ledger.read_status(resolve(out)).written
elif what == "resume alone":
    source = ledger.known_job(resolve(out))["source"]
    names = tuple(f"part-{k:05d}" for k in range(source["shards"]))
    facts["left"] = len(missing(Sink(resolve(out), "png", names, source["rows"], {}, {})))
else:
    with looking_for(out) as looking:
        parts = planned_in_parts(out, [source], False, looking, Early())
        plan = next(parts)
        facts["first_seconds"] = time.monotonic() - begun
        for plan in parts:
            pass
        facts |= {"images": plan.rows, "shards": len(plan.shards), "first_id": plan.shards[0].name}
        if what in ("resume", "merge"):
            sink = open_sink(out, plan, settings={})
            facts["left"] = len(missing(sink))
        if what == "merge":
            facts["written"] = finish(sink).written
facts |= {"seconds": time.monotonic() - begun, "cpu_seconds": time.process_time() - cpu}
facts["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
print(json.dumps({k: round(v, 2) if isinstance(v, float) else v for k, v in facts.items()}))
"""


def names(images: int) -> list[str]:
    """Names as those of ImageNet, in classes of equal size."""
    return [f"n{k * CLASSES // images:08d}/n{k * CLASSES // images:08d}_{k}.png" for k in range(images)]


def write_folder(folder: Path, images: int) -> None:
    """A tree of hard links to one file in every class: a file has no more than 65,000 links."""
    for name in names(images):
        path = folder / name
        first = path.parent / "0.png"
        if not first.exists():
            path.parent.mkdir(parents=True)
            first.write_bytes(PIXEL)
        os.link(first, path)
    for first in folder.glob("*/0.png"):
        first.unlink()


def write_tars(folder: Path, images: int) -> None:
    """Samples of an image and a label."""
    folder.mkdir()
    count = min(TARS, images)
    for number in range(count):
        with tarfile.open(folder / f"{number:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for k in range(images * number // count, images * (number + 1) // count):
                for suffix, data in ((".cls", b"%d" % (k % CLASSES)), (".png", PIXEL)):
                    member = tarfile.TarInfo(f"{k:08d}{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


def write_tables(folder: Path, images: int) -> None:
    """Files with ids and labels."""
    folder.mkdir()
    count = min(TABLES, images)
    for number in range(count):
        rows = range(images * number // count, images * (number + 1) // count)
        columns = {"id": [f"image-{k:08d}" for k in rows], "image": [PIXEL] * len(rows), "label": [k % 9 for k in rows]}
        pq.write_table(pa.table(columns), folder / f"{number:05d}.parquet", row_group_size=256)


def provenance(rows: int, first: int) -> list[dict]:
    """What a job says of so many images."""
    said = {
        "cluster": 3,
        "class": "tench",
        "distance": 12.5,
        "flagged": False,
        "relative_change": 0.1,
        "iterations": 50,
    }
    said |= {"mode": "csc", "width": 1, "height": 1, "bundle": "0123456789abcdef" * 4}
    return [said | {"id": f"n/{k:08d}.png", "output": f"n/{k:08d}.png"} for k in range(first, first + rows)]


def measured(source: str, out: str, what: str) -> dict:
    """The figures of one process."""
    command = [sys.executable, "-c", MEASURED, source, out, what]
    run = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    facts = json.loads(run.stdout.splitlines()[-1])
    print(f"  {what}: {facts}", flush=True)
    return facts


def status_seconds(out: str) -> float:
    """The whole command, with its imports."""
    begun = time.monotonic()
    subprocess.run([Path(sys.executable).with_name("raypurify"), "status", out], stdout=subprocess.DEVNULL, check=True)
    return round(time.monotonic() - begun, 2)


def commit(out: Place, shards: list, part: slice) -> None:
    """The records of some shards."""
    list(
        overlapped(
            lambda shard: ledger.commit(out, shard.name, provenance(shard.rows, shard.first_row), []),
            shards[part],
        )
    )


def measure(write: Callable[[Path, int], None], images: int, scratch: str) -> dict:
    """One way in which the images lie."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        source, out = Path(folder) / "in", Path(folder) / "out"
        write(source, images)
        return half_done(str(source), str(out), merge=True)


def half_done(source: str, out: str, merge: bool = False) -> dict:
    """The figures of a job that is begun, and begun again when half of its shards are committed."""
    facts = {"plan": measured(source, out, "plan"), "restart": measured(source, out, "restart")}
    from raypurify.bulk.planning import looking_for, planned_for

    with looking_for(out) as looking:
        plan = planned_for(out, [source], looking=replace(looking, reading=True))
    open_sink(out, plan, settings={})
    commit(resolve(out), list(plan.shards), slice(0, None, 2))
    facts["resume of a half-done job"] = measured(source, out, "resume")
    facts["status"] = {"seconds": status_seconds(out)}
    if merge:
        commit(resolve(out), list(plan.shards), slice(1, None, 2))
        facts["merge"] = measured(source, out, "merge")
    return facts


def measure_store(images: int, page_s: float, other_s: float) -> dict:
    """A folder in a store, a process of its own that answers as one does that is so many seconds away."""
    script = Path(__file__).with_name("fake_store.py")
    command = [sys.executable, str(script), "--images", str(images), "--page", str(page_s), "--other", str(other_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as store:
        try:
            assert store.stdout
            place = f"{BUCKET}/{{}}?endpoint_override={store.stdout.readline().strip()}&scheme=http"
            os.environ |= {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "key"}
            facts = half_done(f"s3://{place.format('in')}", f"s3://{place.format('out')}")
        finally:
            store.kill()
    # The store's own work is the machine's, too: what it costs to play it.
    return {"seconds of a page": page_s, "seconds of any other answer": other_s} | facts


def measure_ledger(rows: int, scratch: str) -> dict:
    """A ledger alone, each record a hard link to one of 100: writing 39,000 of their own would take longer."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        out = Place(f"{folder}/out")
        shards = -(-rows // 256)
        ledger.write_job(
            out, {"format_version": ledger.FORMAT_VERSION, "source": {"shards": shards, "rows": shards * 256}}
        )
        for number in range(shards):
            name, like = f"part-{number:05d}", f"part-{number % 100:05d}"
            if number < 100:
                ledger.commit(out, name, provenance(256, 256 * number), [])
            else:
                os.link(ledger.marker(out, like).path, ledger.marker(out, name).path)
                os.link(ledger.errors_part(out, like).path, ledger.errors_part(out, name).path)
        return {what: measured("", out.path, f"{what} alone") for what in ("resume", "status", "merge")}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", default=tempfile.gettempdir(), help="Folder for the images, 4 GB at the most.")
    parser.add_argument("--out", type=Path, help="Results file, to which what is measured is added.")
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--only", choices=("folder", "tars", "tables"))
    parser.add_argument("--ledger", type=int, metavar="ROWS")
    parser.add_argument("--store", action="store_true", help="Ask it of a folder in a store alone.")
    parser.add_argument("--page", type=float, default=0.05, help="Seconds that a page of the store's listing takes.")
    parser.add_argument("--other", type=float, default=0.02, help="Seconds that any other answer of it takes.")
    options = parser.parse_args()
    ways = {"folder": write_folder, "tars": write_tars, "tables": write_tables}
    found = json.loads(options.out.read_text()) if options.out and options.out.exists() else {"machine": machine()}
    if options.ledger:
        found[f"ledger of {options.ledger} rows"] = measure_ledger(options.ledger, options.scratch)
    elif options.store:
        load = os.getloadavg()[0]
        found["folder in a store"] = {"load": load} | measure_store(options.images, options.page, options.other)
    else:
        for way in [options.only] if options.only else ways:
            print(way, flush=True)
            found[way] = {"load": os.getloadavg()[0]} | measure(ways[way], options.images, options.scratch)
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")
