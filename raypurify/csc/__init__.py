"""Convolutional sparse coding: the low/high split, sparse codes of an image, dictionaries of a cluster."""

from raypurify.csc.cbpdn import SparseCode, solve_cbpdn
from raypurify.csc.learning import learn_dictionary
from raypurify.csc.noise import noise_level
from raypurify.csc.tikhonov import tikhonov_split

__all__ = ["SparseCode", "learn_dictionary", "noise_level", "solve_cbpdn", "tikhonov_split"]
