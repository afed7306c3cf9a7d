"""The endpoint under load, on loopback: how close it comes to the bare purifier, and what becomes of too many callers.

    python benchmarks/serve.py --data DIR [--only PART ...] [--size small|large] [--seconds 30] [--out FILE]

DIR holds ``cifar10/test.parquet`` and ``imagenette224/val.parquet``. The endpoint runs as users run it, with one
replica of one thread; the bare purifier, on the same images and with one thread, is timed before and after it. Load is
bounded: each part takes about ``--seconds``, and no more than ``MOST`` callers wait at a time.

* ``idle``: one caller at a time, with pauses: the latency over the purifier's own time for one image, after as long a
  pause.
* ``sustained``: as many callers as keep the replica busy, each asking again when it has its answer: images per second
  over those of ``purifier.purify`` in batches.
* ``overload``: open loop, three times the sustained rate, whatever comes back; and the endpoint's memory meanwhile.
* ``cancelled``: 500 callers who leave after 50 ms, then 100 who stay.
* ``mixed``: small images at a third of the sustained rate, without and with photos of ``PHOTO``² beside them.
* ``killed``: at that rate, the replica killed after a third of the time.
* ``slow_bodies``: at that rate, 200 connections that send a byte a second beside it; it lasts until they are closed,
  after the endpoint's 60 seconds.
* ``stream``: images of 32² to 12 megapixels in one stream, on an endpoint that allows them; some minutes.

A part replaces itself in the results file and leaves the others there.
"""

import argparse
import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from statistics import median

import processes
from bulk import SETS
from bulk_job import first_rows
from serve_load import PAUSE_S, Load, accepted, bare, endpoint, spread, statuses
from serve_trouble import STREAM_LIMITS, cancelled, killed, mixed, slow_bodies, stream

import raypurify

RESULTS = Path(__file__).parent / "results" / "serve.json"
BATCHES = {"small": 16, "large": 1}
CALLERS, IMAGES = 32, 128


async def idle(load: Load, found: dict) -> dict:
    """Latency of one caller at a time, beside the purifier's own time for one image."""
    taken = []
    until = time.perf_counter() + load.seconds
    while time.perf_counter() < until:
        taken.append((await load.ask())[1])
        await asyncio.sleep(PAUSE_S)
    own = found["bare"]["one_image_ms"]
    return {"requests": len(taken), "over_purifier_ms_p50": round(1e3 * median(taken) - own, 1), **spread(taken)}


async def sustained(load: Load, found: dict) -> dict:
    """Images per second with the replica always busy."""
    until, taken = time.perf_counter() + load.seconds, []

    async def caller() -> None:
        while time.perf_counter() < until:
            answer, seconds = await load.ask()
            assert answer.status == 200, answer
            taken.append(seconds)

    begun = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    rate = len(taken) / (time.perf_counter() - begun)
    return {"callers": CALLERS, "images_per_second": round(rate, 2), **spread(taken)}


async def overload(load: Load, found: dict) -> dict:
    """Three times what the endpoint can do."""
    rate, memory = 3 * found["sustained"]["images_per_second"], [await load.memory_mib()]
    begun = time.perf_counter()

    async def look() -> None:
        while time.perf_counter() - begun < load.seconds:
            await asyncio.sleep(load.seconds / 12)
            memory.append(await load.memory_mib())

    answers, _ = await asyncio.gather(load.open_loop(rate), look())
    seconds = time.perf_counter() - begun
    taken = accepted(answers)
    refused = [(answer, seconds) for answer, seconds in answers if answer.status != 200]
    polite = [answer for answer, _ in refused if "retry-after" in answer.headers and "error" in json.loads(answer.body)]
    after, _ = await load.ask()
    return {
        "requests_per_second": round(rate, 1),
        "answers": statuses(answers),
        "goodput_per_second": round(len(taken) / seconds, 2),
        "accepted": spread(taken),
        "refused": spread([seconds for _, seconds in refused]),
        "memory_mib": memory,
        "refused_as_json_with_retry_after": len(polite),
        "status_afterwards": after.status,
    }


PARTS: dict[str, Callable[[Load, dict], Awaitable[dict]]] = {
    part.__name__: part for part in (idle, sustained, overload, cancelled, mixed, killed, slow_bodies, stream)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--size", choices=SETS, default="small")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ.pop("RAY_ADDRESS", None)
    name, file, bundle = SETS[arguments.size]
    rows = first_rows([arguments.data / file], IMAGES)
    results = json.loads(arguments.out.read_text("utf-8")) if arguments.out.exists() else {}
    found = results.setdefault(arguments.size, {})
    rated = "sustained" in arguments.only
    if rated:
        found["bare"] = before = bare(bundle, rows, BATCHES[arguments.size], arguments.seconds / 2)
    for limits, others in (((), {stream.__name__}), (STREAM_LIMITS, PARTS.keys() - {stream.__name__})):
        parts = [part for part in PARTS if part in arguments.only and part not in others]
        if parts:
            with endpoint(bundle, *limits) as (url, pid):
                load = partial(Load, url, pid, rows.column("image").to_pylist(), arguments.seconds)
                asyncio.run(measure(load, parts, found))
    if rated:
        after = bare(bundle, rows, BATCHES[arguments.size], arguments.seconds / 2)
        found["bare"]["images_per_second_after"] = after["images_per_second"]
        rate = (before["images_per_second"] + after["images_per_second"]) / 2
        found["sustained"]["over_bare"] = round(found["sustained"]["images_per_second"] / rate, 2)
    found |= {
        "set": name,
        "command": f"python benchmarks/serve.py --data DIR --size {arguments.size} --seconds {arguments.seconds:g}",
        "machine": processes.machine() | {"load_average": os.getloadavg()[0]},
        "bundle": raypurify.load(bundle).digest,
    }
    arguments.out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8")
    if rated:
        print(json.dumps(found["bare"]), found["sustained"]["over_bare"])


async def measure(load: Callable[[], Load], parts: list[str], found: dict) -> None:
    """Each part in turn, into ``found``."""
    async with load() as to:
        for _ in range(5):
            assert (await to.ask())[0].status == 200
        for part in parts:
            found[part] = await PARTS[part](to, found)
            print(part, json.dumps(found[part]), flush=True)


if __name__ == "__main__":
    main()
