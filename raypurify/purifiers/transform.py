"""What the purifiers without clusters share: the contract around a function of images, and per-image randomness."""

import hashlib
import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from raypurify.errors import ConfigError
from raypurify.purifiers.base import Purified, checked, without_clusters

_held: ContextVar[bool] = ContextVar("held", default=False)


class Transform(ABC):
    """A purifier that is a function of the image alone, on the device of the images.

    A subclass is a frozen dataclass of its settings, which raises ConfigError for those out of range, and has
    ``transform``. One that is random has a setting ``seed`` and draws from :func:`generator_of` (``draws``).
    ``transform`` leaves gradients on, for attacks that know the purifier.
    """

    min_size: ClassVar[int] = 1
    """The least side of an image."""
    differentiable: ClassVar[bool] = False
    """Whether ``transform`` has a gradient that says something: not where it rounds, or leaves torch."""

    @abstractmethod
    def transform(self, images: Tensor) -> Tensor:
        """Purified images of the shape of ``images``, (N, 3, H, W) float32 in [0, 1]; they may overshoot [0, 1]."""

    @torch.no_grad()
    def purify(self, images: Tensor) -> Purified:
        """Purify images (N, 3, H, W), floating point in [0, 1]. Raises DataError for anything else."""
        images = checked(images, self.min_size, "its window")
        return without_clusters(self.transform(images).clamp(0, 1), images)


def each_image(images: Tensor, function: Callable[..., np.ndarray], *beside: Sequence | np.ndarray) -> Tensor:
    """Apply ``function`` to every image as a contiguous (H, W, 3) float32 array, and to what each of ``beside`` holds
    for it: for libraries without batches.

    >>> each_image(torch.full((2, 3, 4, 5), 0.25), lambda image: image * 2).unique()
    tensor([0.5000])
    """
    done = torch.empty_like(images)
    for i, image in enumerate(images):
        array = np.ascontiguousarray(image.detach().permute(1, 2, 0).cpu().numpy())
        pixels = function(array, *(one[i] for one in beside))
        done[i] = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
    return done


def generator_of(pixels: np.ndarray, seed: int) -> np.random.Generator:
    """A generator of random numbers that ``seed`` and the values of one image decide, in any batch and on any machine.

    >>> image = np.zeros((3, 4, 4), np.float32)
    >>> bool(generator_of(image, 0).random() == generator_of(image.copy(), 0).random())
    True
    """
    if _held.get():
        return np.random.default_rng(seed)
    digest = hashlib.sha256(np.ascontiguousarray(pixels).data).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest, np.uint32)])


@contextmanager
def held_draws() -> Iterator[None]:
    """A context in which ``seed`` alone decides what a purifier draws, whatever the image: for differences of it.

    Otherwise the least change of an image changes all that is drawn, and a difference says nothing of a slope.

    >>> with held_draws():
    ...     draws = [generator_of(np.full(4, x), 0).random() for x in (0.1, 0.2)]
    >>> draws[0] == draws[1]
    True
    """
    token = _held.set(True)
    try:
        yield
    finally:
        _held.reset(token)


def check_seed(seed: int) -> None:
    """Raise ConfigError unless ``seed`` is an integer ≥ 0."""
    if not isinstance(seed, int) or seed < 0:
        raise ConfigError(f"seed={seed!r}: a seed is a whole number ≥ 0")


def check_whole(name: str, value: int, least: int, most: int) -> None:
    """Raise ConfigError unless the setting ``name`` is an integer from ``least`` to ``most``.

    >>> check_whole("crops", 0, 1, 1000)
    Traceback (most recent call last):
    ...
    raypurify.errors.ConfigError: crops=0: need a whole number from 1 to 1000
    """
    if not isinstance(value, int) or not least <= value <= most:
        raise ConfigError(f"{name}={value!r}: need a whole number from {least} to {most}")


def optional_module(name: str) -> ModuleType:
    """Import a module of the extra ``evaluation``.

    Raises ConfigError that says how to install it where it is missing.

    >>> optional_module("skimage.restoration").__name__
    'skimage.restoration'
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"this purifier needs {name.split('.')[0]}, which is not installed: pip install 'raypurify[evaluation]'"
        ) from error
