"""The manifest of a bundle and the files that it lists, read and checked without torch."""

import hashlib
import json
import math
import os
from dataclasses import dataclass
from importlib import resources
from itertools import pairwise
from typing import Annotated, Any

from pydantic import AfterValidator, Field, FiniteFloat, ValidationError

from raypurify.config import SECTIONS, Settings
from raypurify.errors import BundleError
from raypurify.storage import Place, Where, redact, resolve
from raypurify.trees import SettingsModel

# Version 1 named no method: all were of the first.
FORMAT_VERSION, FIRST_METHOD = 2, "rsfp"
MANIFEST = "manifest.json"
MAX_MANIFEST, MAX_FILE, MAX_CURVE = 16 << 20, 16 << 30, 1001
Shape = tuple[int, ...]
# What batch normalisation keeps beside its parameters.
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


class FileRecord(SettingsModel):
    """Size and SHA-256 of one file of a bundle."""

    sha256: str
    bytes: int = Field(ge=0, le=MAX_FILE)


def _ascending(values: tuple[float, ...]) -> tuple[float, ...]:
    if len(values) == 1 or any(a > b for a, b in pairwise(values)):
        raise ValueError("a curve is of two values or more, none smaller than the one before")
    return values


class Calibration(SettingsModel):
    """The flag's calibration on clean validation images: a distance above ``distance_threshold``, the ``quantile`` of
    theirs, raises it. ``quantiles`` are the curve of theirs, from the least to the greatest at equal steps of their
    number; there are none in a bundle that was fitted before they were kept."""

    distance_threshold: FiniteFloat
    quantile: float
    images: int
    quantiles: Annotated[tuple[FiniteFloat, ...], Field(max_length=MAX_CURVE), AfterValidator(_ascending)] = ()


class Manifest(SettingsModel):
    """What a bundle is, how it was made, and what it measured.

    ``method`` is a name in ``methods.METHODS``; of a bundle of format version 1, which has none, "rsfp".
    ``cluster_class`` holds for each cluster the number of its class, None where the method's clusters are of no class.
    ``dictionary_source`` says for each cluster whose dictionary it uses: a cluster's number, its own where it had
    images to learn from, or "global".
    """

    format_version: int
    method: str
    name: str
    raypurify: str
    settings: Settings
    classes: list[str]
    cluster_class: list[int | None]
    dictionary_source: list[str]
    training_data: dict[str, Any]
    training: dict[str, Any]
    calibration: Calibration
    measured: dict[str, Any]
    files: dict[Annotated[str, Field(pattern=r"^[a-z0-9_]+\.safetensors$")], FileRecord]


@dataclass(frozen=True)
class BundleFolder:
    """An opened bundle: where it is, its manifest, and the manifest's SHA-256, which is the bundle's digest."""

    place: Place
    manifest: Manifest
    digest: str

    def read(self, name: str) -> bytes:
        """One of the bundle's files. Raises BundleError where its size or digest is not what the manifest says."""
        if name not in self.manifest.files:
            raise BundleError(
                f"bundle {self.place}: the manifest does not list {name}; fit or download the bundle again"
            )
        record = self.manifest.files[name]
        data = _read(self.place / name, record.bytes)
        if len(data) != record.bytes or hashlib.sha256(data).hexdigest() != record.sha256:
            raise BundleError(
                f"bundle {self.place}: {name} does not have the digest in the manifest, it was damaged or changed; "
                "fit or download the bundle again"
            )
        return data


@dataclass(frozen=True)
class BundleFacts:
    """What can be said of a bundle without its tensors' values: manifest, digest, and the shape of every tensor, by
    file and name; ``where`` it is, for messages."""

    manifest: Manifest
    digest: str
    shapes: dict[str, dict[str, Shape]]
    where: str = ""

    def shape(self, file: str, tensor: str, form: str) -> Shape:
        """The shape of a tensor, as ``form`` names its axes. Raises BundleError where it is missing or has others.

        >>> read_facts("cifar10").shape("dictionaries.safetensors", "atoms", "K, M, 3, h, w")
        (30, 64, 3, 8, 8)
        """
        shape = self.shapes.get(file, {}).get(tensor)
        if shape is None:
            raise self.wrong(f"{file} has no tensor {tensor!r}")
        axes = form.split(", ")
        if len(axes) != len(shape) or any(axis.isdigit() and int(axis) != n for axis, n in zip(axes, shape)):
            raise self.wrong(f"{tensor!r} in {file} is of shape {shape}, not ({form})")
        return shape

    def parameters(self, file: str) -> int:
        """The number of the parameters of a network in ``file``, without the statistics of its batch normalisation."""
        shapes = self.shapes[file]
        return sum(math.prod(shape) for name, shape in shapes.items() if name.rpartition(".")[2] not in _BUFFERS)

    def wrong(self, problem: str) -> BundleError:
        """The error to raise where the tensors are not what the manifest says."""
        where = self.where or self.manifest.name
        return BundleError(f"bundle {where}: the tensors do not fit the manifest: {problem}; fit the bundle again")


def shipped_bundles() -> list[str]:
    """Names of the bundles inside the package.

    >>> shipped_bundles()[:3]
    ['cifar10', 'cifar10-front-end', 'cifar10-region']
    """
    folder = resources.files("raypurify.bundles")
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and (p / MANIFEST).is_file())


def absolute(bundle: str | os.PathLike) -> str:
    """A bundle as processes in other folders of this file system name it: a relative path that is there is made
    absolute, a URI and the name of a shipped one stay.

    >>> absolute("cifar10"), absolute("s3://bucket/mine")
    ('cifar10', 's3://bucket/mine')
    """
    name = os.fspath(bundle)
    return name if "://" in name or _is_shipped(name) or not os.path.exists(name) else os.path.abspath(name)


def open_bundle(where: Where) -> BundleFolder:
    """Open a bundle by the name of a shipped one, a folder, or a URI (``s3://…``, ``gs://…``, ``file://…``).

    The manifest is read and checked, the other files are not. Raises BundleError where there is no bundle, and where
    the manifest is damaged, or of an unknown version or method.
    """
    place, text = _open(where)
    return BundleFolder(place, _manifest(text, place), hashlib.sha256(text).hexdigest())


def read_manifest(where: Where) -> Manifest:
    """The manifest of a bundle, checked but with its files unread. Raises what ``open_bundle`` raises."""
    return open_bundle(where).manifest


def read_facts(where: Where | BundleFolder) -> BundleFacts:
    """The facts of a bundle, after the digest of every file has been checked.

    Raises what ``open_bundle`` raises, and BundleError naming the file where one is missing or changed. Whether they
    are those of its method, that says (``methods.checked_facts``).
    """
    bundle = where if isinstance(where, BundleFolder) else open_bundle(where)
    shapes = {
        name: _tensor_shapes(bundle.read(name), f"bundle {bundle.place}: {name}") for name in bundle.manifest.files
    }
    return BundleFacts(bundle.manifest, bundle.digest, shapes, str(bundle.place))


def _tensor_shapes(data: bytes, where: str) -> dict[str, Shape]:
    # The header alone: the library's own reader copies all values.
    length = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + length])
        return {name: tuple(about["shape"]) for name, about in header.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise BundleError(f"{where} is not a safetensors file: {e}; fit the bundle again") from e


def _is_shipped(where: Where) -> bool:
    # A bundle of one's own by that name goes first; a folder without a manifest may be the data set.
    name = str(where)
    return name in shipped_bundles() and not os.path.exists(os.path.join(name, MANIFEST))


def _open(where: Where) -> tuple[Place, bytes]:
    if _is_shipped(where):
        where = str(resources.files("raypurify.bundles") / where)
    shown = str(where) if isinstance(where, Place) else redact(where)
    try:
        root = resolve(where)
    except (OSError, ValueError, ImportError) as e:
        raise BundleError(f"cannot open bundle {shown}: {e}; check the path") from e
    try:
        return root, _read(root / MANIFEST, MAX_MANIFEST)
    except BundleError as e:
        known = ", ".join(shipped_bundles())
        raise BundleError(f"no bundle at {shown!r}: {e}; check the path; the shipped bundles are: {known}") from e


def _manifest(text: bytes, root: Place) -> Manifest:
    try:
        tree = json.loads(text)
        version = tree.get("format_version") if isinstance(tree, dict) else None
        if type(version) is not int or version not in range(1, FORMAT_VERSION + 1):
            raise BundleError(
                f"bundle {root}: format version {version!r} is unknown here, this raypurify reads 1 to "
                f"{FORMAT_VERSION}; install the version that wrote it, or fit the bundle again"
            )
        if version == 1:
            tree = {"method": FIRST_METHOD} | tree
        # Before its settings, which are not known here either.
        if isinstance(method := tree.get("method"), str) and method not in SECTIONS:
            raise BundleError(
                f"bundle {root} is of the method {method!r}, and this raypurify knows {', '.join(SECTIONS)}; "
                f"install the version that wrote it ({tree.get('raypurify')})"
            )
        return Manifest.model_validate(tree)
    except ValidationError as e:
        first = e.errors()[0]
        where = f"{MANIFEST}: {'.'.join(map(str, first['loc']))}"
        raise BundleError(f"bundle {root}: {where}: {first['msg']}; fit the bundle again") from e
    except (ValueError, RecursionError) as e:
        raise BundleError(f"bundle {root}: {MANIFEST} is not valid JSON: {e}; fit or download the bundle again") from e


def _read(file: Place, limit: int) -> bytes:
    try:
        return file.read(limit + 1)
    except OSError as e:
        # Of HTTP the path is the whole URI, which the error repeats.
        shown = redact(str(file)) if "://" in file.path else str(file)
        why = str(e).replace(file.path, shown)
        raise BundleError(
            f"bundle file {shown} is missing or unreadable: {why}; fit or download the bundle again"
        ) from e
