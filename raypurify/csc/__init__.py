"""Convolutional sparse coding: the low/high split, sparse codes of an image, dictionaries of a cluster.

An image is split into a smooth low part and the remainder (``tikhonov``); the remainder, its high part, is written as
``Σ_m d_m * x_m``, few coefficients x of atoms d (``cbpdn``); the atoms are learned from clean high parts
(``learning``), and may be refined for one image (``refinement``). Everything takes and gives tensors, in any number of
images and channels, and knows neither clusters nor files.

``solve_cbpdn`` checks its input and picks a method for each image. A method is a function and an entry in
``methods.METHODS``: coordinate descent (``cd``, its arrays ``_cd_arrays`` and loops ``_cd_kernels``; on a GPU
``_descent_gpu``) or ADMM (``admm``, on a GPU in the kernels of ``_admm_gpu``, with a mask ``admm_masked``). ``levels``
has the weights λ.
Whatever found a code, ``optimality`` judges it, ``implicit`` differentiates it, and ``tiles`` codes what does not fit
into memory.
"""

from raypurify.csc.cbpdn import SparseCode, solve_cbpdn
from raypurify.csc.learning import learn_dictionary
from raypurify.csc.noise import noise_level, smooth_noise_level
from raypurify.csc.refinement import refine_dictionaries
from raypurify.csc.tikhonov import tikhonov_split

__all__ = [
    "SparseCode",
    "learn_dictionary",
    "noise_level",
    "refine_dictionaries",
    "smooth_noise_level",
    "solve_cbpdn",
    "tikhonov_split",
]
