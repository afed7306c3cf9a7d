"""Purifiers: objects that take images and give back images without the perturbation.

``purifiers.base`` has the contract. :class:`RSFP` is made from a bundle; every other purifier is made from plain
settings and has a name in ``PURIFIERS``. A new one is one file with a frozen dataclass of its settings, most easily a
``purifiers.transform.Transform``, and one entry there.
"""

from collections.abc import Callable

from raypurify.purifiers.base import Purified, Purifier
from raypurify.purifiers.jpeg import JPEG
from raypurify.purifiers.low_pass import LowPass
from raypurify.purifiers.nlm import NonLocalMeans
from raypurify.purifiers.none import Unchanged
from raypurify.purifiers.pixel_deflection import PixelDeflection
from raypurify.purifiers.resize_pad import ResizePad
from raypurify.purifiers.rsfp import RSFP
from raypurify.purifiers.rsfp_global import GlobalRSFP, learn_global_dictionary, load_global_rsfp
from raypurify.purifiers.squeezing import BitDepth, Median
from raypurify.purifiers.tvm import TotalVariation

PURIFIERS: dict[str, Callable[..., Purifier]] = {
    "none": Unchanged,
    "low_pass": LowPass,
    "jpeg": JPEG,
    "bit_depth": BitDepth,
    "median": Median,
    "tvm": TotalVariation,
    "pixel_deflection": PixelDeflection,
    "nlm": NonLocalMeans,
    "resize_pad": ResizePad,
    "rsfp_global": load_global_rsfp,
}
"""By the name in settings and tables, what makes a purifier from settings alone; only ``rsfp_global`` needs any."""

__all__ = [
    "JPEG",
    "PURIFIERS",
    "RSFP",
    "BitDepth",
    "GlobalRSFP",
    "LowPass",
    "Median",
    "NonLocalMeans",
    "PixelDeflection",
    "Purified",
    "Purifier",
    "ResizePad",
    "TotalVariation",
    "Unchanged",
    "learn_global_dictionary",
    "load_global_rsfp",
]
