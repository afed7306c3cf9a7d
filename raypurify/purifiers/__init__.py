"""Purifiers: objects that take images and give back images without the perturbation.

A purifier has ``purify(images)``, which gives a :class:`Purified`: images of the same size and what was done to each
(``base``). A :class:`Bundled` one, :class:`RSFP`, :class:`STL`, :class:`RegionSparse` or :class:`FrontEndPurifier`, is
made from a bundle, whose atoms rewrite an image; every other purifier is made from plain settings and has a name in
``PURIFIERS``. ``batch`` takes images of any sizes, as pixels or as files, through one of them.

To add a purifier: one file with a frozen dataclass of its settings, most easily a ``transform.Transform``, which turns
a function of images into a purifier, and one entry in ``PURIFIERS``. Grids find it there, and
``tests/purifiers/test_contract.py`` runs the contract over every entry.
"""

from collections.abc import Callable

from raypurify.purifiers.base import Purified, Purifier
from raypurify.purifiers.bilateral import Bilateral
from raypurify.purifiers.bundled import Bundled
from raypurify.purifiers.comdefend import ComDefend
from raypurify.purifiers.crop_ensemble import CropEnsemble
from raypurify.purifiers.deflection_ensemble import DeflectionEnsemble
from raypurify.purifiers.denoiser import Denoiser
from raypurify.purifiers.front_end import FrontEndPurifier
from raypurify.purifiers.jpeg import JPEG
from raypurify.purifiers.low_pass import LowPass
from raypurify.purifiers.magnet import MagNet
from raypurify.purifiers.nlm import NonLocalMeans
from raypurify.purifiers.none import Unchanged
from raypurify.purifiers.pixel_deflection import PixelDeflection
from raypurify.purifiers.quilting import Quilting
from raypurify.purifiers.region_sparse import RegionSparse
from raypurify.purifiers.resize_pad import ResizePad
from raypurify.purifiers.rsfp import RSFP
from raypurify.purifiers.rsfp_global import GlobalRSFP, learn_global_dictionary, load_global_rsfp
from raypurify.purifiers.squeezing import BitDepth, Median
from raypurify.purifiers.stl import STL
from raypurify.purifiers.tvm import TotalVariation

PURIFIERS: dict[str, Callable[..., Purifier]] = {
    "none": Unchanged,
    "low_pass": LowPass,
    "jpeg": JPEG,
    "bit_depth": BitDepth,
    "median": Median,
    "tvm": TotalVariation,
    "quilting": Quilting,
    "crop_ensemble": CropEnsemble,
    "pixel_deflection": PixelDeflection,
    "deflection_ensemble": DeflectionEnsemble,
    "nlm": NonLocalMeans,
    "bilateral": Bilateral,
    "resize_pad": ResizePad,
    "magnet": MagNet,
    "denoiser": Denoiser,
    "comdefend": ComDefend,
    "rsfp_global": load_global_rsfp,
}
"""By the name in settings and tables, what makes a purifier from settings alone; only ``rsfp_global`` and
``deflection_ensemble`` need any."""

__all__ = [
    "JPEG",
    "PURIFIERS",
    "RSFP",
    "STL",
    "Bilateral",
    "BitDepth",
    "Bundled",
    "ComDefend",
    "CropEnsemble",
    "DeflectionEnsemble",
    "Denoiser",
    "FrontEndPurifier",
    "GlobalRSFP",
    "LowPass",
    "MagNet",
    "Median",
    "NonLocalMeans",
    "PixelDeflection",
    "Purified",
    "Purifier",
    "Quilting",
    "RegionSparse",
    "ResizePad",
    "TotalVariation",
    "Unchanged",
    "learn_global_dictionary",
    "load_global_rsfp",
]
