"""The dictionaries of a bundle without torch, for those who only draw them."""

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from raypurify.bundle.manifest import BundleFolder
from raypurify.bundle.names import DICTIONARIES
from raypurify.errors import BundleError


def read_atoms(bundle: BundleFolder) -> np.ndarray:
    """The dictionaries as they lie on disk: float16 (K, M, 3, h, w), of any norm.

    Raises BundleError where the file is missing or changed, or holds no dictionaries for the clusters of the manifest.

    >>> from raypurify.bundle.manifest import open_bundle
    >>> read_atoms(open_bundle("cifar10")).shape
    (30, 64, 3, 8, 8)
    """
    where = f"bundle {bundle.place}: {DICTIONARIES}"
    try:
        atoms = load(bundle.read(DICTIONARIES))["atoms"]
    except (SafetensorError, KeyError) as error:
        raise BundleError(f"{where} holds no atoms: {error}; fit the bundle again") from error
    if atoms.ndim != 5 or atoms.shape[2] != 3 or len(atoms) != len(bundle.manifest.cluster_class):
        count = len(bundle.manifest.cluster_class)
        raise BundleError(f"{where} holds atoms of shape {atoms.shape}, not for {count} clusters; fit the bundle again")
    return atoms
