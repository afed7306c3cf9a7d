"""Bundles that differ from another: other atoms, numbers that are none, damaged files."""

import torch

from raypurify.bundle import load_bundle, save_bundle
from raypurify.bundle.tensors import Bundle


def variant(bundle, folder, seed=None, nan=()):
    """A copy of a bundle with atoms of ``seed``, or with a NaN in its "network" or "atoms"."""
    loaded: Bundle = load_bundle(bundle)
    atoms, network = loaded.dictionaries, loaded.network
    if seed is not None:
        atoms = torch.randn(atoms.shape, generator=torch.Generator().manual_seed(seed))
        atoms /= torch.linalg.vector_norm(atoms, dim=(2, 3, 4), keepdim=True)
    if "atoms" in nan:
        atoms[:] = torch.nan
    if "network" in nan:
        with torch.no_grad():
            next(network.parameters())[:] = torch.nan
    about = loaded.manifest.model_dump(exclude={"format_version", "raypurify", "files"})
    save_bundle(folder, network, loaded.distributions, atoms, **about)
    return folder


def damage(folder):
    """Cut the largest file of a bundle short; returns what mends it."""
    path = max(folder.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    return lambda: path.write_bytes(whole)
