"""The endpoint under load, on loopback: how close it comes to the bare purifier, and what becomes of too many callers.

    python benchmarks/serve.py --data DIR [--only PART ...] [--size small|large] [--seconds 30] [--out FILE]

DIR holds ``cifar10/test.parquet`` and ``imagenette224/val.parquet``. The endpoint runs as users run it, with one
replica of one thread; the bare purifier, on the same images and with one thread, is timed before and after it. Load is
bounded: each part takes about ``--seconds``, and no more than ``MOST`` callers wait at a time.

* ``idle``: one caller at a time, with pauses: the latency over the purifier's own time for one image.
* ``sustained``: as many callers as keep the replica busy, each asking again when it has its answer: images per second
  over those of ``purifier.purify`` in batches.
* ``overload``: open loop, three times the sustained rate, whatever comes back.
* ``cancelled``: 500 callers who leave after 50 ms, then 100 who stay.
* ``mixed``: small images at a third of the sustained rate, without and with photos of ``PHOTO``² beside them.

A part replaces itself in the results file and leaves the others there.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median

import httpx
import numpy as np
import processes
import torch
from bulk import SETS, pixels
from bulk_job import first_rows

import raypurify
from raypurify.images import decode_image, encode_image

RESULTS = Path(__file__).parent / "results" / "serve.json"
BATCHES = {"small": 16, "large": 1}
CALLERS, MOST, PHOTO = 32, 1000, 1000
IMAGES = 128


class Load:
    """Images to send to one endpoint, and what came back."""

    def __init__(self, url: str, rows: list[bytes], seconds: float):
        self.url, self.rows, self.seconds = url, rows, seconds
        limits = httpx.Limits(max_connections=MOST, max_keepalive_connections=MOST)
        self.client = httpx.AsyncClient(base_url=url, timeout=120, limits=limits)
        self.sent = 0

    async def ask(self, data: bytes | None = None) -> tuple[httpx.Response, float]:
        """Send one image, in turn one of all; the answer and the seconds it took."""
        self.sent += 1
        begun = time.perf_counter()
        answer = await self.client.post("/v1/purify", content=data or self.rows[self.sent % len(self.rows)])
        return answer, time.perf_counter() - begun

    async def open_loop(self, rate: float) -> list[tuple[httpx.Response, float]]:
        """Send at random times, ``rate`` a second, whatever comes back; the answers when all are there."""
        rng, tasks = np.random.default_rng(0), set()
        answers: list[tuple[httpx.Response, float]] = []
        begun = due = time.perf_counter()
        while due - begun < self.seconds:
            due += rng.exponential(1 / rate)
            await asyncio.sleep(max(0, due - time.perf_counter()))
            if len(tasks) < MOST:
                task = asyncio.ensure_future(self.ask())
                tasks.add(task)
                task.add_done_callback(lambda done: (tasks.discard(done), answers.append(done.result())))
        await asyncio.gather(*tasks)
        return answers


async def idle(load: Load, found: dict) -> dict:
    """Latency of one caller at a time, beside the purifier's own time for one image."""
    taken = []
    until = time.perf_counter() + load.seconds
    while time.perf_counter() < until:
        taken.append((await load.ask())[1])
        await asyncio.sleep(0.05)
    own = found["bare"]["one_image_ms"]
    return {"requests": len(taken), "over_purifier_ms_p50": round(1e3 * median(taken) - own, 1), **spread(taken)}


async def sustained(load: Load, found: dict) -> dict:
    """Images per second with the replica always busy."""
    until, taken = time.perf_counter() + load.seconds, []

    async def caller() -> None:
        while time.perf_counter() < until:
            answer, seconds = await load.ask()
            answer.raise_for_status()
            taken.append(seconds)

    begun = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    rate = len(taken) / (time.perf_counter() - begun)
    return {"callers": CALLERS, "images_per_second": round(rate, 2), **spread(taken)}


async def overload(load: Load, found: dict) -> dict:
    """Three times what the endpoint can do."""
    rate = 3 * found["sustained"]["images_per_second"]
    begun = time.perf_counter()
    answers = await load.open_loop(rate)
    seconds = time.perf_counter() - begun
    accepted = [taken for answer, taken in answers if answer.status_code == 200]
    refused = [(answer, taken) for answer, taken in answers if answer.status_code != 200]
    polite = [answer for answer, _ in refused if "retry-after" in answer.headers and "error" in answer.json()]
    after, _ = await load.ask()
    return {
        "requests_per_second": round(rate, 1),
        "answers": {str(status): count for status, count in Counter(a.status_code for a, _ in answers).items()},
        "goodput_per_second": round(len(accepted) / seconds, 2),
        "accepted": spread(accepted),
        "refused": spread([taken for _, taken in refused]) if refused else {},
        "refused_as_json_with_retry_after": len(polite),
        "status_afterwards": after.status_code,
    }


async def cancelled(load: Load, found: dict) -> dict:
    """Callers who leave, and callers after them."""

    async def leave() -> None:
        with suppress(TimeoutError, asyncio.TimeoutError):
            await asyncio.wait_for(load.ask(), 0.05)

    await asyncio.gather(*(leave() for _ in range(500)))
    answers = await asyncio.gather(*(load.ask() for _ in range(100)))
    return {
        "cancelled": 500,
        "answers": {str(status): count for status, count in Counter(a.status_code for a, _ in answers).items()},
    }


async def mixed(load: Load, found: dict) -> dict:
    """Small images, without and with photos beside them."""
    rate = found["sustained"]["images_per_second"] / 3
    alone = await load.open_loop(rate)
    image = decode_image(load.rows[0])
    photo = np.kron(image.pixels, np.ones((1 + PHOTO // image.pixels.shape[0],) * 2 + (1,), np.uint8))[:PHOTO, :PHOTO]
    data = encode_image(photo, type(image)(photo, None, "RGB"))

    async def photos() -> int:
        until, count = time.perf_counter() + load.seconds, 0
        while time.perf_counter() < until:
            await load.ask(data)
            count += 1
        return count

    beside, count = await asyncio.gather(load.open_loop(rate), photos())
    return {
        "requests_per_second": round(rate, 1),
        "alone": spread([taken for _, taken in alone]),
        "photos": {"side": PHOTO, "answered": count},
        "beside_photos": spread([taken for _, taken in beside]),
    }


PARTS: dict[str, Callable[[Load, dict], Awaitable[dict]]] = {
    part.__name__: part for part in (idle, sustained, overload, cancelled, mixed)
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
    before = bare(bundle, rows, BATCHES[arguments.size], arguments.seconds / 2)
    with endpoint(bundle) as url:
        found["bare"] = before

        async def measure() -> None:
            load = Load(url, rows.column("image").to_pylist(), arguments.seconds)
            for _ in range(5):
                (await load.ask())[0].raise_for_status()
            for part in [part for part in PARTS if part in arguments.only]:
                found[part] = await PARTS[part](load, found)
                print(part, json.dumps(found[part]), flush=True)

        asyncio.run(measure())
    after = bare(bundle, rows, BATCHES[arguments.size], arguments.seconds / 2)
    found["bare"]["images_per_second_after"] = after["images_per_second"]
    if "sustained" in arguments.only:
        rate = (before["images_per_second"] + after["images_per_second"]) / 2
        found["sustained"]["over_bare"] = round(found["sustained"]["images_per_second"] / rate, 2)
    found |= {
        "set": name,
        "command": f"python benchmarks/serve.py --data DIR --size {arguments.size} --seconds {arguments.seconds:g}",
        "machine": processes.machine() | {"load_average": os.getloadavg()[0]},
        "bundle": raypurify.load(bundle).digest,
    }
    arguments.out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(json.dumps(found["bare"]), found["sustained"].get("over_bare") if "sustained" in found else "")


def bare(bundle: str, rows: object, batch: int, seconds: float) -> dict:
    """The purifier in this process with one thread: images per second in batches, and the time of one image."""
    torch.set_num_threads(1)
    purifier, images = raypurify.load(bundle), pixels(rows)
    purifier.purify(images[:batch])
    done, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        first = done % (len(images) - batch + 1)
        purifier.purify(images[first : first + batch])
        done += batch
    rate = done / (time.perf_counter() - begun)
    single = []
    for k in range(16):
        begun = time.perf_counter()
        purifier.purify(images[k : k + 1])
        single.append(time.perf_counter() - begun)
    return {"batch": batch, "images_per_second": round(rate, 2), "one_image_ms": round(1e3 * median(single), 1)}


def spread(taken: list[float]) -> dict:
    """Latencies in milliseconds."""
    return {f"ms_p{q}": round(1e3 * float(np.percentile(taken, q)), 1) for q in (50, 95, 99)}


@contextmanager
def endpoint(bundle: str) -> Iterator[str]:
    """The endpoint as users start it, on a free port; ended as they end it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--bundle", bundle, "--port", str(port), "--no-auth", "--max-replicas", "1"]
    command = [sys.executable, "-m", "raypurify", "serve", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        for line in process.stdout:
            if "raypurify serves" in line:
                break
        else:
            raise SystemExit("the endpoint did not start")
        yield f"http://127.0.0.1:{port}"
        process.send_signal(signal.SIGTERM)
        process.wait(120)
    finally:
        process.kill()


if __name__ == "__main__":
    main()
