"""Purifiers: objects that take images and give back images without the perturbation."""

from raypurify.purifiers.base import Purified, Purifier
from raypurify.purifiers.rsfp import RSFP

__all__ = ["RSFP", "Purified", "Purifier"]
