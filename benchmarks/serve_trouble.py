"""Callers and accidents that an endpoint has to live with: each part a function of the load and of what was found."""

import asyncio
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import processes
from serve_load import Answer, Load, accepted, spread, statuses

from raypurify.images import Decoded, decode_image, encode_image

PHOTO = 1000
SLOW = 200
REPLICA = "ray::ServeReplica:raypurify:Purifier"
# Images of a side, and how many of each: a photo of 12 megapixels among hundreds of small images.
STREAM = {32: 400, 64: 200, 128: 100, 256: 40, 512: 12, 1024: 3, 2048: 1, 3464: 1}
STREAM_LIMITS = ("--max-pixels", str(3464**2), "--max-bytes", str(64 << 20), "--timeout", "900")


async def cancelled(load: Load, found: dict) -> dict:
    """Callers who leave, and callers after them."""

    async def leave() -> None:
        with suppress(TimeoutError, asyncio.TimeoutError):
            await asyncio.wait_for(load.ask(), 0.05)

    await asyncio.gather(*(leave() for _ in range(500)))
    answers = await asyncio.gather(*(load.ask() for _ in range(100)))
    return {"cancelled": 500, "answers": statuses(answers)}


async def mixed(load: Load, found: dict) -> dict:
    """Small images, without and with photos beside them."""
    rate = found["sustained"]["images_per_second"] / 3
    alone = await load.open_loop(rate)
    data = enlarged(load.rows[0], PHOTO)

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


async def killed(load: Load, found: dict) -> dict:
    """The replica killed in the middle of a load that it can carry."""
    rate = found["sustained"]["images_per_second"] / 3
    done: list[float] = []

    async def kill() -> float:
        await asyncio.sleep(load.seconds / 3)
        (replica,) = (
            pid for pid in processes.tree(load.pid) if _title(pid).startswith("ray::ServeReplica:raypurify:Pur")
        )
        os.kill(replica, signal.SIGKILL)
        return time.perf_counter()

    ask = load.ask

    async def noted(data: bytes | None = None) -> tuple[Answer, float]:
        answer = await ask(data)
        if answer[0].status == 200:
            done.append(time.perf_counter())
        return answer

    load.ask = noted  # type: ignore[method-assign]
    answers, at = await asyncio.gather(load.open_loop(rate), kill())
    load.ask = ask  # type: ignore[method-assign]
    polite = [a for a, _ in answers if a.status == 503 and "retry-after" in a.headers]
    return {
        "requests_per_second": round(rate, 1),
        "answers": statuses(answers),
        "refused_with_retry_after": len(polite),
        "accepted": spread(accepted(answers)),
        "all": spread([taken for _, taken in answers]),
        "seconds_until_an_image_again": round(min((t for t in done if t > at), default=float("nan")) - at, 2),
    }


async def slow_bodies(load: Load, found: dict) -> dict:
    """Connections that send a byte a second, beside callers who do not."""
    rate = found["sustained"]["images_per_second"] / 3
    alone = await load.open_loop(rate, load.seconds / 2)
    host, port = load.url.removeprefix("http://").split(":")
    ended: list[tuple[float, str]] = []

    async def drip() -> None:
        begun = time.perf_counter()
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /v1/purify HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
        answer = asyncio.ensure_future(reader.read(12))
        while not answer.done():
            with suppress(ConnectionError):
                writer.write(b"x")
                await writer.drain()
            await asyncio.wait({answer}, timeout=1)
        ended.append((time.perf_counter() - begun, answer.result().decode("latin-1")[9:12]))
        writer.close()

    drips = [asyncio.ensure_future(drip()) for _ in range(SLOW)]
    beside = await load.open_loop(rate)
    await asyncio.wait(drips, timeout=150)
    taken = sorted(seconds for seconds, _ in ended)
    for one in drips:
        one.cancel()
    return {
        "connections": SLOW,
        "requests_per_second": round(rate, 1),
        "alone": spread(accepted(alone)),
        "beside": {"answers": statuses(beside)} | spread(accepted(beside)),
        "closed": len(ended),
        "closed_after_seconds": [round(taken[0], 1), round(taken[-1], 1)] if taken else [],
        "closed_with": sorted({status for _, status in ended}),
    }


async def stream(load: Load, found: dict) -> dict:
    """Images of 32² to 12 megapixels in one stream, at two thirds of what the replica can do."""
    sizes = [side for side, count in STREAM.items() for _ in range(round(count * min(1, load.seconds / 30)))]
    np.random.default_rng(0).shuffle(sizes)
    data = {side: enlarged(load.rows[0], side) for side in STREAM}
    # The pace of a photo, of which most of the work is made.
    _, taken = await load.ask(data[1024])
    length = 1.5 * taken * sum(side**2 for side in sizes) / 1024**2
    answers: dict[int, list] = {side: [] for side in STREAM}

    async def send(side: int, at: float) -> None:
        await asyncio.sleep(at)
        answers[side].append(await load.ask(data[side]))

    before = await load.memory_mib()
    times = np.sort(np.random.default_rng(1).uniform(0, length, len(sizes)))
    await asyncio.gather(*(send(side, at) for side, at in zip(sizes, times)))
    return {
        "seconds": round(length, 1),
        "memory_mib": {"before": before, "after": await load.memory_mib()},
        "sides": {
            str(side): {"answers": statuses(each)} | spread(accepted(each)) for side, each in answers.items() if each
        },
    }


def enlarged(data: bytes, side: int) -> bytes:
    """An image file repeated, or cut, to a square of ``side``, as PNG."""
    image = decode_image(data).pixels
    times = 1 + side // min(image.shape[:2])
    pixels = np.ascontiguousarray(np.tile(image, (times, times, 1))[:side, :side])
    return encode_image(pixels, Decoded(pixels, None, "RGB"))


def _title(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    return ""
