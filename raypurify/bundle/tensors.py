"""What a bundle's files hold: robust network, cluster distributions, dictionaries; made into files and back."""

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from raypurify.bundle.manifest import (
    DICTIONARIES,
    DISTRIBUTIONS,
    FILES,
    FORMAT_VERSION,
    MANIFEST,
    NETWORK,
    BundleFolder,
    FileRecord,
    Manifest,
    open_bundle,
)
from raypurify.clusters import ClusterDistributions
from raypurify.config import Settings
from raypurify.errors import BundleError
from raypurify.nets import WideResNet
from raypurify.storage import Where, resolve
from raypurify.version import __version__


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle Φ: robust network, cluster distributions (K), dictionaries (K, M, 3, h, w), and its manifest."""

    manifest: Manifest
    network: WideResNet
    distributions: ClusterDistributions
    dictionaries: Tensor
    digest: str

    @property
    def settings(self) -> Settings:
        """The settings of the fit that made the bundle."""
        return self.manifest.settings


def save_bundle(
    folder: Where, network: WideResNet, distributions: ClusterDistributions, dictionaries: Tensor, **about: Any
) -> str:
    """Write a bundle into ``folder`` and return its digest; weights and atoms as float16, distributions as float32.

    ``about`` are the fields of Manifest but ``format_version``, ``raypurify`` and ``files``. The manifest is written
    last, so that a folder with a manifest is whole.
    """
    place = resolve(folder)
    tensors = {
        NETWORK: {k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()},
        DISTRIBUTIONS: distributions.state(),
        DICTIONARIES: {"atoms": dictionaries.half()},
    }
    files = {}
    for name, group in tensors.items():
        data = save_tensors({k: v.detach().cpu().contiguous() for k, v in group.items()})
        (place / name).write(data)
        files[name] = FileRecord(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
    manifest = Manifest(format_version=FORMAT_VERSION, raypurify=__version__, files=files, **about)
    text = manifest.model_dump_json(indent=1).encode()
    (place / MANIFEST).write(text)
    return hashlib.sha256(text).hexdigest()


def load_bundle(where: Where) -> Bundle:
    """Load a bundle by the name of a shipped one, a folder, or a URI (``s3://…``, ``gs://…``, ``file://…``).

    Raises BundleError naming the file when one is missing, has another size or digest, or does not hold what the
    manifest says, and when the format version is unknown.
    """
    bundle = open_bundle(where)
    groups = {}
    for name in FILES:
        try:
            groups[name] = load_tensors(bundle.read(name))
        except SafetensorError as e:
            raise BundleError(
                f"bundle {bundle.place}: {name} is not a safetensors file: {e}; fit the bundle again"
            ) from e
    try:
        return _assemble(bundle, groups)
    except (KeyError, RuntimeError, ValueError, TypeError) as e:
        raise BundleError(
            f"bundle {bundle.place}: the tensors do not fit the manifest: {e}; fit the bundle again"
        ) from e


def _assemble(bundle: BundleFolder, groups: dict[str, dict[str, Tensor]]) -> Bundle:
    manifest, net = bundle.manifest, bundle.manifest.settings.network
    network = WideResNet(net.depth, net.width, len(manifest.classes))
    network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in groups[NETWORK].items()})
    distributions = ClusterDistributions.from_state(groups[DISTRIBUTIONS], form=manifest.settings.clusters.form)
    atoms = groups[DICTIONARIES]["atoms"].float()
    atoms = atoms / torch.linalg.vector_norm(atoms, dim=(2, 3, 4), keepdim=True)
    bundle.check_counts(distributions.clusters, len(atoms))
    if distributions.dim != network.dim:
        raise ValueError(f"distributions of {distributions.dim} dimensions, latents of {network.dim}")
    for name, tensor in (("dictionaries", atoms), ("distribution means", distributions.means)):
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name} hold values that are not finite")
    return Bundle(manifest, network.eval(), distributions, atoms, bundle.digest)
