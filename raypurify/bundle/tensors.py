"""The tensors of a bundle's files, of whatever method; written to disk and read back."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from raypurify.bundle.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    BundleFacts,
    BundleFolder,
    FileRecord,
    Manifest,
    open_bundle,
)
from raypurify.config import Settings
from raypurify.errors import BundleError, ConfigError, RaypurifyError
from raypurify.storage import Where, resolve
from raypurify.version import __version__

Tensors = Mapping[str, Mapping[str, Tensor]]
"""Tensors by file and name."""


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle Φ: its manifest, and the tensors of its files as they lie on disk.

    What the tensors mean, its method knows: ``methods.load`` makes a purifier of them. ``where`` is for messages.
    """

    manifest: Manifest
    tensors: Tensors
    digest: str
    where: str = ""

    @property
    def settings(self) -> Settings:
        """The settings of the fit that made the bundle."""
        return self.manifest.settings

    @property
    def facts(self) -> BundleFacts:
        """What can be said of the bundle without its tensors' values."""
        shapes = {file: {name: tuple(v.shape) for name, v in group.items()} for file, group in self.tensors.items()}
        return BundleFacts(self.manifest, self.digest, shapes, self.where)


def save_bundle(folder: Where, tensors: Tensors, **about: Any) -> str:
    """Write a bundle of these ``tensors``, by file and name, into ``folder`` and return its digest.

    ``about`` are the fields of Manifest but ``format_version``, ``raypurify`` and ``files``. The manifest is written
    last, so that a folder with a manifest is whole.
    """
    place = resolve(folder)
    files = {}
    for name, group in tensors.items():
        data = save_tensors({k: v.detach().cpu().contiguous() for k, v in group.items()})
        (place / name).write(data)
        files[name] = FileRecord(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
    manifest = Manifest(format_version=FORMAT_VERSION, raypurify=__version__, files=files, **about)
    text = manifest.model_dump_json(indent=1).encode()
    (place / MANIFEST).write(text)
    return hashlib.sha256(text).hexdigest()


def load_bundle(where: Where | BundleFolder) -> Bundle:
    """Load a bundle by the name of a shipped one, a folder, or a URI (``s3://…``, ``gs://…``, ``file://…``).

    Raises BundleError naming the file when one is missing, has another size or digest, or holds no tensors, and when
    the format version is unknown. Whether the tensors are those of its method, that says (``methods.load``).
    """
    bundle = where if isinstance(where, BundleFolder) else open_bundle(where)
    groups = {}
    for name in bundle.manifest.files:
        try:
            groups[name] = load_tensors(bundle.read(name))
        except SafetensorError as e:
            raise BundleError(
                f"bundle {bundle.place}: {name} is not a safetensors file: {e}; fit the bundle again"
            ) from e
    return Bundle(bundle.manifest, groups, bundle.digest, str(bundle.place))


@contextmanager
def fitting(bundle: Bundle) -> Iterator[None]:
    """What goes wrong with tensors that are not as the manifest says, in the block, as BundleError of this bundle."""
    where = bundle.where or bundle.manifest.name
    try:
        yield
    except (BundleError, ConfigError) as e:
        # Settings of the manifest that no network has, too.
        raise BundleError(f"bundle {where}: {e}") from e
    except RaypurifyError:
        raise
    except (KeyError, RuntimeError, ValueError, TypeError, OverflowError) as e:
        raise BundleError(f"bundle {where}: the tensors do not fit the manifest: {e}; fit the bundle again") from e
