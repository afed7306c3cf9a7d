"""What a method has to say for itself, so that all that handles bundles need not know it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from raypurify.bundle.manifest import BundleFacts, Manifest
from raypurify.bundle.names import DICTIONARIES
from raypurify.errors import BundleError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from raypurify.bundle import Bundle
    from raypurify.purifiers import Bundled


@dataclass(frozen=True)
class Method:
    """One method: what a bundle of it keeps, and how that becomes a purifier.

    ``name`` stands in manifests and settings; ``paper`` is where it comes from, in a line. ``files`` are those that its
    bundles keep, ``DICTIONARIES`` with the tensor "atoms" among them. ``cluster`` and ``distance`` say what these
    columns of provenance mean. ``classes``: whether each cluster is of a class; else ``class`` is empty.

    ``check`` raises BundleError where the shapes of the tensors do not go together; what all methods share is checked
    before. ``lines`` is what ``raypurify inspect`` says of the method's own tensors, by short labels, of which
    "dictionaries" and "purification" stand for what it says itself. Neither needs torch. ``purifier`` makes the
    purifier of a bundle on a device, and ``code`` is the module that it is in. ``classifier`` gives the network of a
    bundle that tells its classes apart, None where a method has none; where not all bundles of a method have one,
    ``classifies`` says which, and ``classifier_code`` is the module of its layers. ``for_whom`` names the only one
    whom the images of a bundle are for, None where they are for all.
    """

    name: str
    paper: str
    files: tuple[str, ...]
    cluster: str
    distance: str
    classes: bool
    check: Callable[[BundleFacts], None]
    lines: Callable[[BundleFacts], dict[str, str]]
    code: str
    purifier: "Callable[[Bundle, str | torch.device], Bundled]"
    classifier: "Callable[[Bundle], nn.Module] | None" = None
    classifies: Callable[[Manifest], bool] = lambda manifest: True
    classifier_code: str = ""
    for_whom: Callable[[Manifest], str | None] = lambda manifest: None


def check_files(method: Method, files: set[str], where: str) -> None:
    """Raise BundleError where a bundle's manifest does not list just the files of its method."""
    if missing := [name for name in method.files if name not in files]:
        raise BundleError(
            f"bundle {where}: the manifest does not list {missing[0]}, which the method {method.name} needs; "
            "fit or download the bundle again"
        )
    if more := sorted(files - set(method.files)):
        raise BundleError(
            f"bundle {where}: the manifest lists {more[0]}, which the method {method.name} does not know; "
            "fit or download the bundle again"
        )


def check_counts(method: Method, facts: BundleFacts) -> None:
    """Raise BundleError where manifest and dictionaries are not of the same clusters, or classes are named that do not
    exist."""
    manifest = facts.manifest
    if manifest.settings.method != method.name:
        raise facts.wrong(f"the method is {method.name}, that of the settings {manifest.settings.method}")
    count, sources = len(manifest.cluster_class), len(manifest.dictionary_source)
    dictionaries = facts.shape(DICTIONARIES, "atoms", "K, M, 3, h, w")[0]
    if count != dictionaries:
        raise facts.wrong(f"{count} clusters, {dictionaries} dictionaries")
    if sources != count:
        raise facts.wrong(f"{count} clusters, but {sources} entries in dictionary_source")
    if any(c is not None and not 0 <= c < len(manifest.classes) for c in manifest.cluster_class):
        raise facts.wrong("cluster_class names a class that does not exist")
    if any((c is None) == method.classes for c in manifest.cluster_class):
        raise facts.wrong(f"of the method {method.name}, {'every' if method.classes else 'no'} cluster has a class")
