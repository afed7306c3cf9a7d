"""Gaussian noise of a given dissimilarity, which a purifier's training images may get."""

from collections.abc import Sequence

import numpy as np


def with_noise(image: np.ndarray, sizes: Sequence[float], seed: int, row: int) -> np.ndarray:
    """An image (3, S, S) uint8 as float32 in [0, 1] with Gaussian noise, rounded to 8 bits as files are.

    The noise has a dissimilarity ‖noise‖₂/‖image‖₂ out of ``sizes``; (seed, row) decide which one, and the noise.

    >>> noisy = with_noise(np.full((3, 8, 8), 128, np.uint8), [0.04], seed=0, row=0)
    >>> round(float(np.linalg.norm(noisy - 128 / 255) / np.linalg.norm(np.full((3, 8, 8), 128 / 255))), 2)
    0.04
    """
    draw = np.random.default_rng((seed % 2**32, row))
    size, noise = sizes[int(draw.integers(len(sizes)))], draw.standard_normal(image.shape, np.float32)
    x = image.astype(np.float32) / 255
    noisy = np.clip(x + noise * (size * np.linalg.norm(x) / np.linalg.norm(noise)), 0, 1)
    return np.round(noisy * 255) / np.float32(255)
