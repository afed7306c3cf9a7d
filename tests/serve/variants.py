"""Bundles that differ from another: other atoms, numbers that are none, damaged files."""

import torch

from raypurify.bundle import load_bundle, save_bundle
from raypurify.bundle.names import DICTIONARIES, NETWORK
from raypurify.bundle.tensors import Bundle


def variant(bundle, folder, seed=None, nan=()):
    """A copy of a bundle with atoms of ``seed``, or with a NaN in its "network" or "atoms"."""
    loaded: Bundle = load_bundle(bundle)
    tensors = {file: dict(group) for file, group in loaded.tensors.items()}
    atoms = tensors[DICTIONARIES]["atoms"]
    if seed is not None:
        atoms = torch.randn(atoms.shape, generator=torch.Generator().manual_seed(seed))
        tensors[DICTIONARIES]["atoms"] = atoms.half()
    if "atoms" in nan:
        atoms[:] = torch.nan
    if "network" in nan:
        tensors[NETWORK]["features.0.weight"][:] = torch.nan
    about = loaded.manifest.model_dump(exclude={"format_version", "raypurify", "files"})
    save_bundle(folder, tensors, **about)
    return folder


def damage(folder):
    """Cut the largest file of a bundle short; returns what mends it."""
    path = max(folder.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    return lambda: path.write_bytes(whole)
