"""What memory one large image takes of a process that purifies it, from file to file.

    .venv/bin/python benchmarks/image_memory.py --out benchmarks/results/image_memory.json

Each size is a process of its own, which has purified a small image before; its peak beyond that is the image's.
"""

import argparse
import io
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from processes import machine, peak_memory

SIDES = 1024, 2048, 4096


def picture(side: int) -> bytes:
    """Waves under noise, as a PNG file; made in strips."""
    draw = np.random.default_rng(0)
    pixels = np.empty((side, side, 3), np.uint8)
    for top in range(0, side, 64):
        y, x = np.mgrid[top : top + 64, 0:side]
        waves = 127 + 80 * (np.sin(x / 9) * np.cos(y / 7))[..., None] * np.array([1, 0.7, 0.4])
        pixels[top : top + 64] = (waves + draw.normal(0, 12, waves.shape)).clip(0, 255)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png", compress_level=1)
    return file.getvalue()


def measure(side: int, bundle: str) -> dict:
    """The figures of this process."""
    import torch

    import raypurify
    from raypurify.purifiers.batch import purify_files, purify_pixels

    torch.set_num_threads(1)
    purify = partial(purify_pixels, raypurify.load(bundle))
    small, large = picture(64), picture(side)
    list(purify_files(purify, [(0, small)]))
    before = peak_memory()
    list(purify_files(purify, [(0, large)]))
    return {
        "before_mb": round(before / 1e6, 1),
        "peak_mb": round(peak_memory() / 1e6, 1),
        "bytes_a_pixel": round((peak_memory() - before) / side**2, 1),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="imagenet10")
    parser.add_argument("--side", type=int, help="Measure this size here.")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measure(options.side, options.bundle)))
        sys.exit()
    found: dict = {"machine": machine(), "bundle": options.bundle}
    for side in SIDES:
        command = [sys.executable, __file__, "--bundle", options.bundle, "--side", str(side)]
        found[str(side)] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)
        print(side, found[str(side)], flush=True)
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")
