"""Whether this machine, or a cluster, can do what raypurify asks of it: one finding a check."""

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata

from raypurify.version import __version__

PACKAGES = ("ray", "torch", "numpy", "pyarrow", "numba", "sporco", "scikit-learn", "safetensors")
EXTRAS = {"evaluation": ("scikit-image", "PyWavelets", "pyautoattack")}
# A job's Ray, its objects and compiled kernels; below, things fail in the middle.
LEAST_DISK, NODE_SECONDS = 2 << 30, 120


@dataclass(frozen=True)
class Finding:
    """What one check found; ``text`` says what is there, and what to do where it is not ``ok``."""

    name: str
    ok: bool
    text: str


def examine(address: str | None = None) -> Iterator[Finding]:
    """All checks, each as soon as it is done: packages, devices, bundles, sparse coding, disk, and every node of the
    Ray cluster at ``address`` or of a local Ray."""
    checks: dict[str, Callable[[], str]] = {
        "packages": _packages,
        "devices": _devices,
        "bundles": _bundles,
        "sparse coding": _coding,
        "disk": _disk,
        "ray": lambda: _nodes(address),
    }
    for name, check in checks.items():
        try:
            yield Finding(name, True, check())
        except Exception as error:  # whatever is broken, the other checks say their part
            yield Finding(name, False, " ".join(f"{error or type(error).__name__}".split()))


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
    from raypurify.bundle import load_bundle, shipped_bundles

    return ", ".join(f"{name} {load_bundle(name).digest[:12]}…" for name in shipped_bundles())


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


def _nodes(address: str | None) -> str:
    from raypurify.runtime.resources import cluster_resources
    from raypurify.runtime.session import ray_session

    with ray_session(address):
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        nodes = [node for node in ray.nodes() if node["Alive"]]
        asked = {
            ray.remote(num_cpus=0)(_there)
            .options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
            .remote(): node["NodeManagerAddress"]
            for node in nodes
        }
        done, silent = ray.wait(list(asked), num_returns=len(asked), timeout=NODE_SECONDS)
        wrong = [f"{asked[future]} starts no worker within {NODE_SECONDS} s" for future in silent]
        for future in done:
            try:
                if (version := ray.get(future)) != __version__:
                    wrong.append(f"{asked[future]} has raypurify {version}, not {__version__}: install the same")
            except Exception as error:  # of that node, whatever it is
                wrong.append(f"{asked[future]}: {str(error).strip().splitlines()[-1]}")
        if wrong:
            raise RuntimeError("; ".join(wrong))
        has = cluster_resources()
        return (
            f"{len(nodes)} node{'s' * (len(nodes) > 1)}, {has.cpus} CPUs, {has.gpus} GPUs, the same raypurify on each"
        )


def _there() -> str:
    import raypurify.purifiers  # noqa: F401  (that it and torch can be imported there)
    from raypurify.version import __version__ as version

    return version
