"""Load on an endpoint of this machine: images to send, latencies, the endpoint itself, and the bare purifier."""

import asyncio
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from statistics import median
from typing import NamedTuple

import aiohttp
import numpy as np
import processes
import torch
from bulk import pixels

import raypurify

MOST = 1000
# Between two calls of one who comes now and then.
PAUSE_S = 0.05


class Answer(NamedTuple):
    """What the endpoint answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes


Answers = list[tuple[Answer, float]]


class Load:
    """Images to send to one endpoint, whose first process is ``pid``, and what came back."""

    def __init__(self, url: str, pid: int, rows: list[bytes], seconds: float):
        self.url, self.pid, self.rows, self.seconds = url, pid, rows, seconds
        self.sent = 0

    async def __aenter__(self) -> "Load":
        limit = aiohttp.TCPConnector(limit=MOST)
        self.session = aiohttp.ClientSession(self.url, timeout=aiohttp.ClientTimeout(1200), connector=limit)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()

    async def ask(self, data: bytes | None = None) -> tuple[Answer, float]:
        """Send one image, in turn one of all; the answer and the seconds it took."""
        self.sent += 1
        begun = time.perf_counter()
        async with self.session.post("/v1/purify", data=data or self.rows[self.sent % len(self.rows)]) as response:
            answer = Answer(response.status, response.headers, await response.read())
        return answer, time.perf_counter() - begun

    async def open_loop(self, rate: float, seconds: float | None = None) -> Answers:
        """Send at random times, ``rate`` a second, whatever comes back; the answers when all are there."""
        rng, tasks = np.random.default_rng(0), set()
        answers: Answers = []
        begun = due = time.perf_counter()
        while due - begun < (self.seconds if seconds is None else seconds):
            due += rng.exponential(1 / rate)
            await asyncio.sleep(max(0, due - time.perf_counter()))
            if len(tasks) < MOST:
                task = asyncio.ensure_future(self.ask())
                tasks.add(task)
                task.add_done_callback(lambda done: (tasks.discard(done), answers.append(done.result())))
        await asyncio.gather(*tasks)
        return answers

    async def memory_mib(self) -> float:
        """Memory of the endpoint's processes together, in MiB."""
        found = await asyncio.to_thread(lambda: processes.memory(processes.tree(self.pid)))
        return round(found / (1 << 20), 1)


def statuses(answers: Answers) -> dict[str, int]:
    """How many answers of each status."""
    return {str(status): count for status, count in sorted(Counter(a.status for a, _ in answers).items())}


def spread(taken: list[float]) -> dict:
    """Latencies in milliseconds."""
    if not taken:
        return {}
    found = {f"ms_p{q}": round(1e3 * float(np.percentile(taken, q)), 1) for q in (50, 95, 99)}
    return found | {"ms_most": round(1e3 * max(taken), 1)}


def accepted(answers: Answers) -> list[float]:
    """Seconds of the answers that are images."""
    return [taken for answer, taken in answers if answer.status == 200]


def bare(bundle: str, rows: object, batch: int, seconds: float) -> dict:
    """The purifier in this process with one thread: images per second in batches, and the time of one image, asked
    for with the pauses of a caller who comes now and then: caches are cold after one."""
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
    for k in range(len(images)):
        time.sleep(PAUSE_S)
        begun = time.perf_counter()
        purifier.purify(images[k : k + 1])
        single.append(time.perf_counter() - begun)
    return {"batch": batch, "images_per_second": round(rate, 2), "one_image_ms": round(1e3 * median(single), 1)}


@contextmanager
def endpoint(bundle: str, *more: str) -> Iterator[tuple[str, int]]:
    """The endpoint as users start it, on a free port, and its first process; ended as they end it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--bundle", bundle, "--port", str(port), "--no-auth", "--max-replicas", "1", *more]
    command = [sys.executable, "-m", "raypurify", "serve", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        for line in process.stdout:
            if "raypurify serves" in line:
                break
        else:
            raise SystemExit("the endpoint did not start")
        yield f"http://127.0.0.1:{port}", process.pid
        process.send_signal(signal.SIGTERM)
        process.wait(120)
    finally:
        process.kill()
