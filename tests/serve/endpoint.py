"""What tests of the endpoint share beside its fixtures: a token, pictures, and the same work in this process."""

import numpy as np
import torch
from bad_images import pixels

import raypurify
from raypurify.images import decode_image, to_float, to_pixels

TOKEN = "a token of this test"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}


def noisy(height, width, seed=0):
    """A picture with something for the sparse coder to do."""
    noise = np.random.default_rng(seed).normal(0, 30, (height, width, 3))
    return (pixels(height, width, seed) + noise).clip(0, 255).astype(np.uint8)


def expected(bundle, data):
    """The same image through the same bundle in this process."""
    image = decode_image(data)
    out = raypurify.load(bundle).purify(torch.from_numpy(to_float(image.pixels))[None])
    return to_pixels(out.images[0].numpy()), out
