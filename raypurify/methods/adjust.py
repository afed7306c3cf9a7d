"""A bundle with other settings of how it rewrites images, and all else as it was."""

import hashlib
from collections.abc import Sequence
from typing import Any

from raypurify.bundle import save_bundle
from raypurify.bundle.manifest import MANIFEST, Manifest
from raypurify.errors import ConfigError, SinkError
from raypurify.methods import load
from raypurify.storage import Place, Where, redact, resolve
from raypurify.trees import apply_override

# What these say of clean images is of clusters and networks; the others are of images that were rewritten.
_KEPT = ("set", "clean")


def adjust(bundle: Where, out: Where, changes: Sequence[str]) -> str:
    """Write a bundle like ``bundle`` that rewrites images with other settings into the folder ``out``; give its digest.

    ``changes`` are settings of the section that says how images are rewritten, ``csc.lmbda=0.1``. Tensors, clusters and
    the threshold of the flag stay; of what was measured only what does not depend on the settings. It is one bundle
    more, for ``load``, ``purify``, ``serve`` and grids, and has its own digest in provenance.

    Raises ConfigError for other settings, for values that they cannot have, for changes that change nothing, and for a
    method whose distances depend on them; SinkError where ``out`` holds a bundle, or another file by the name of one of
    its, or cannot be written; BundleError for the bundle.

    >>> import raypurify, tempfile
    >>> out = tempfile.mkdtemp()
    >>> digest = adjust("cifar10-stl", out, ["csc.noise_factor=10", "csc.refit=true"])
    >>> raypurify.load(out).settings.csc.refit
    True
    """
    purifier = load(bundle)
    manifest = purifier.bundle.manifest
    if not purifier.distance_is_apart:
        raise ConfigError(
            f"of the method {manifest.method} the distance depends on these settings, and with it the flag: "
            "raypurify fit --set finds them together, in its run directory from the first stage that depends on them"
        )
    changed = purifier.with_settings(**_of_section(changes, purifier.tunable)).settings
    if changed == purifier.settings:
        raise ConfigError(f"these are the settings of {manifest.name} already: give others, or take it as it is")
    measured = {name: manifest.measured[name] for name in _KEPT if name in manifest.measured}
    about = manifest.model_dump(exclude={"format_version", "raypurify", "files", "name"}) | {
        "settings": changed,
        # Of one that was adjusted before, the one that was measured.
        "training": {"adjusted": {"from": manifest.name, "digest": purifier.digest}} | manifest.training,
        "measured": measured,
    }
    try:
        place = resolve(out)
        found = _found(place, manifest)
        if not found:
            # As messages have it: a manifest is UTF-8, and names of folders need not be.
            name = str(place).rstrip("/").rpartition("/")[2] or manifest.name
            return save_bundle(place, purifier.bundle.tensors, **about, name=name)
    except (OSError, ValueError, ImportError) as error:
        shown = str(out) if isinstance(out, Place) else redact(out)
        raise SinkError(f"{shown}: cannot be written: {error}; check the path and its permissions") from error
    raise SinkError(f"{place} holds {found}: name another folder")


def _found(place: Place, manifest: Manifest) -> str:
    """What is in the way of a bundle with the files of ``manifest`` in a place; nothing where such a one was begun."""
    if (place / MANIFEST).kind:
        return "a bundle"
    for name, record in manifest.files.items():
        file = place / name
        if file.kind and hashlib.sha256(file.read(record.bytes + 1)).hexdigest() != record.sha256:
            return f"{name} of something else"
    return ""


def _of_section(changes: Sequence[str], section: str) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for change in changes:
        apply_override(tree, change)
    if others := [name for name in tree if name != section]:
        raise ConfigError(
            f"{others[0]} cannot change once a bundle is fitted: give settings of {section}, which say how images are "
            "rewritten, or fit with it"
        )
    if not isinstance(found := tree.get(section), dict) or not found:
        raise ConfigError(f"nothing is to change: give settings of {section}, as raypurify settings names them")
    # YAML has keys that are no texts.
    return {str(name): value for name, value in found.items()}
