"""Checks of this machine alone: packages, devices, the shipped bundles, sparse coding, disk."""

import os
import platform
import shutil
import tempfile
import time
from importlib import metadata

from raypurify.version import __version__

PACKAGES = ("ray", "torch", "numpy", "pyarrow", "numba", "sporco", "scikit-learn", "safetensors")
EXTRAS = {"evaluation": ("scikit-image", "PyWavelets", "pyautoattack")}
# A job's Ray, its objects and compiled kernels; below, things fail in the middle.
LEAST_DISK = 2 << 30


def _packages() -> str:
    found = {name: _version(name) for name in PACKAGES}
    if missing := [name for name, version in found.items() if version is None]:
        raise ImportError(f"missing: {', '.join(missing)}; pip install raypurify again")
    text = ", ".join(f"{name} {version}" for name, version in found.items())
    for extra, names in EXTRAS.items():
        if missing := [name for name in names if _version(name) is None]:
            text += f"; without the extra [{extra}]: {', '.join(missing)}"
    return f"Python {platform.python_version()}, raypurify {__version__}, {text}"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _devices() -> str:
    import torch

    names = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    return f"{os.cpu_count()} CPU cores, " + (", ".join(names) if names else "no GPU that torch can use")


def _bundles() -> str:
    import raypurify
    from raypurify.bundle import shipped_bundles

    return ", ".join(f"{name} {raypurify.load(name).digest[:12]}…" for name in shipped_bundles())


def _coding() -> str:
    import torch

    import raypurify

    device = "cuda" if torch.cuda.is_available() else "cpu"
    purifier = raypurify.load("cifar10", device)
    images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    purifier.purify(images)  # compiled once per installation
    begun = time.perf_counter()
    changed = purifier.purify(images).relative_change
    if not ((changed > 0) & (changed < 1)).all():
        raise RuntimeError(
            f"purified noise is off by {changed.tolist()}: this build of torch or numba computes wrongly"
        )
    seconds = (time.perf_counter() - begun) / len(images)
    how = "compiled by numba" if device == "cpu" and _version("numba") else "by torch"
    return f"{1000 * seconds:.0f} ms an image of 32² on {device}, {how}"


def _disk() -> str:
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if free < LEAST_DISK:
        raise OSError(f"{free / 2**30:.1f} GiB free in {folder}, where Ray works: free some, or set RAY_TMPDIR")
    return f"{free / 2**30:.0f} GiB free in {folder}"


MACHINE = {
    "packages": _packages,
    "devices": _devices,
    "bundles": _bundles,
    "sparse coding": _coding,
    "disk": _disk,
}
