"""Bundles: Φ on disk, ``manifest.json`` and ``.safetensors`` files, read from a folder, a URI or the package.

Nothing in a bundle is ever unpickled. Every file is listed in the manifest with its size and SHA-256, and is read only
up to that size and used only if the digest fits.
"""

import hashlib
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from raypurify.clusters import ClusterDistributions
from raypurify.config import Settings
from raypurify.errors import BundleError
from raypurify.nets import WideResNet
from raypurify.storage import Place, redact, resolve
from raypurify.version import __version__

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
FILES = ("network.safetensors", "distributions.safetensors", "dictionaries.safetensors")
MAX_MANIFEST, MAX_FILE = 16 << 20, 16 << 30


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileRecord(_Record):
    sha256: str
    bytes: int = Field(ge=0, le=MAX_FILE)


class Calibration(_Record):
    """From clean validation images: a distance above ``distance_threshold`` (their ``quantile``) raises the flag."""

    distance_threshold: float
    quantile: float
    images: int


class Manifest(_Record):
    """What a bundle is, how it was made, and what it measured.

    ``dictionary_source`` says for each cluster whose dictionary it uses: a cluster's number, its own where it had
    images to learn from, or "global".
    """

    format_version: int
    name: str
    raypurify: str
    settings: Settings
    classes: list[str]
    cluster_class: list[int]
    dictionary_source: list[str]
    training_data: dict[str, Any]
    training: dict[str, Any]
    calibration: Calibration
    measured: dict[str, Any]
    files: dict[str, FileRecord]


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
        return self.manifest.settings


def shipped_bundles() -> list[str]:
    """Names of the bundles inside the package."""
    folder = resources.files("raypurify.bundles")
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and (p / MANIFEST).is_file())


def save_bundle(
    folder: Path, network: WideResNet, distributions: ClusterDistributions, dictionaries: Tensor, **about: Any
) -> str:
    """Write a bundle into ``folder`` and return its digest; weights and atoms as float16, distributions as float32.

    ``about`` are the fields of Manifest but ``format_version``, ``raypurify`` and ``files``. The manifest is written
    last, so that a folder with a manifest is whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        "network": {k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()},
        "distributions": distributions.state(),
        "dictionaries": {"atoms": dictionaries.half()},
    }
    files = {}
    for name, group in tensors.items():
        data = save_tensors({k: v.detach().cpu().contiguous() for k, v in group.items()})
        (folder / f"{name}.safetensors").write_bytes(data)
        files[f"{name}.safetensors"] = FileRecord(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
    manifest = Manifest(format_version=FORMAT_VERSION, raypurify=__version__, files=files, **about)
    text = manifest.model_dump_json(indent=1).encode()
    (folder / MANIFEST).write_bytes(text)
    return hashlib.sha256(text).hexdigest()


def read_manifest(where: str | Path) -> Manifest:
    """The manifest of a bundle, checked but with its files unread."""
    root, text = _open(where)
    return _manifest(text, root)


def load_bundle(where: str | Path) -> Bundle:
    """Load a bundle by the name of a shipped one, a folder, or a URI (``s3://…``, ``gs://…``, ``file://…``).

    Raises BundleError naming the file when one is missing, has another size or digest, or does not hold what the
    manifest says, and when the format version is unknown.
    """
    root, text = _open(where)
    manifest = _manifest(text, root)
    groups = {}
    for name in FILES:
        if name not in manifest.files:
            raise BundleError(f"bundle {root}: the manifest does not list {name}; fit or download the bundle again")
        data = _read(root / name, manifest.files[name].bytes)
        if len(data) != manifest.files[name].bytes or hashlib.sha256(data).hexdigest() != manifest.files[name].sha256:
            raise BundleError(
                f"bundle {root}: {name} does not have the digest in the manifest; it is damaged or was changed"
            )
        try:
            groups[name.removesuffix(".safetensors")] = load_tensors(data)
        except SafetensorError as e:
            raise BundleError(f"bundle {root}: {name} is not a safetensors file: {e}") from e
    try:
        return _assemble(manifest, groups, hashlib.sha256(text).hexdigest())
    except (KeyError, RuntimeError, ValueError, TypeError) as e:
        raise BundleError(f"bundle {root}: the tensors do not fit the manifest: {e}") from e


def _assemble(manifest: Manifest, groups: dict[str, dict[str, Tensor]], digest: str) -> Bundle:
    net = manifest.settings.network
    network = WideResNet(net.depth, net.width, len(manifest.classes))
    network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in groups["network"].items()})
    distributions = ClusterDistributions.from_state(groups["distributions"], form=manifest.settings.clusters.form)
    atoms = groups["dictionaries"]["atoms"].float()
    atoms = atoms / torch.linalg.vector_norm(atoms, dim=(2, 3, 4), keepdim=True)
    count = len(manifest.cluster_class)
    if not (len(atoms) == distributions.clusters == count and distributions.dim == network.dim):
        raise ValueError(f"{count} clusters, {distributions.clusters} distributions, {len(atoms)} dictionaries")
    if len(manifest.dictionary_source) != count:
        raise ValueError(f"{count} clusters, but {len(manifest.dictionary_source)} entries in dictionary_source")
    if any(not 0 <= c < len(manifest.classes) for c in manifest.cluster_class):
        raise ValueError("cluster_class names a class that does not exist")
    for name, tensor in (("dictionaries", atoms), ("distribution means", distributions.means)):
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name} hold values that are not finite")
    return Bundle(manifest, network.eval(), distributions, atoms, digest)


def _open(where: str | Path) -> tuple[Place, bytes]:
    where = str(where)
    if where in shipped_bundles() and not Path(where).is_dir():
        where = str(resources.files("raypurify.bundles") / where)
    try:
        root = resolve(where)
    except (OSError, ValueError, ImportError) as e:
        raise BundleError(f"cannot open bundle {redact(where)}: {e}") from e
    try:
        return root, _read(root / MANIFEST, MAX_MANIFEST)
    except BundleError as e:
        known = ", ".join(shipped_bundles())
        raise BundleError(f"no bundle at {redact(where)!r}: {e}; the shipped bundles are: {known}") from e


def _manifest(text: bytes, root: Place) -> Manifest:
    try:
        tree = json.loads(text)
        version = tree.get("format_version") if isinstance(tree, dict) else None
        if version != FORMAT_VERSION:
            raise BundleError(
                f"bundle {root}: format version {version!r} is unknown here, this raypurify reads {FORMAT_VERSION}; "
                "install the version that wrote it, or fit the bundle again"
            )
        return Manifest.model_validate(tree)
    except ValidationError as e:
        first = e.errors()[0]
        raise BundleError(f"bundle {root}: {MANIFEST}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from e
    except (ValueError, RecursionError) as e:
        raise BundleError(f"bundle {root}: {MANIFEST} is not valid JSON: {e}") from e


def _read(file: Place, limit: int) -> bytes:
    try:
        return file.read(limit + 1)
    except OSError as e:
        raise BundleError(f"bundle file {file} is missing or unreadable: {e}") from e
