"""Bundles: Φ on disk, ``manifest.json`` and ``.safetensors`` files, read from a folder, a URI or the package.

Nothing in a bundle is ever unpickled. Every file is listed in the manifest with its size and SHA-256, and is read only
up to that size and used only if the digest fits. ``bundle.manifest`` reads and checks files and needs no torch;
``bundle.tensors`` the tensors in them. What these are, a bundle's method knows (:mod:`raypurify.methods`).

>>> from raypurify.bundle import load_bundle
>>> load_bundle("cifar10").manifest.name
'cifar10'
"""

from typing import TYPE_CHECKING, Any

from raypurify.bundle.manifest import BundleFacts, Calibration, Manifest, read_facts, read_manifest, shipped_bundles

if TYPE_CHECKING:
    from raypurify.bundle.tensors import Bundle, load_bundle, save_bundle

__all__ = [
    "Bundle",
    "BundleFacts",
    "Calibration",
    "Manifest",
    "load_bundle",
    "read_facts",
    "read_manifest",
    "save_bundle",
    "shipped_bundles",
]


def __getattr__(name: str) -> Any:
    # torch is imported only by those who need tensors.
    if name in ("Bundle", "load_bundle", "save_bundle"):
        from raypurify.bundle import tensors

        return getattr(tensors, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
