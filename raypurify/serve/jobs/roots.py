"""Where jobs may read and write: below folders and URI prefixes that the endpoint was given, and nowhere else.

A path is taken as it is written: no pattern, no percent-encoding, no ``..``. A URI begins with the very text of a root,
whose options (address and region of the store) are the operator's; so it can name no other scheme, host or store. On
disks links count as what they lead to.
"""

import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from raypurify.containers.ledger import STATE
from raypurify.errors import ConfigError
from raypurify.serve.jobs.refused import Refused
from raypurify.storage import Place, bounded, redact, resolve, within

# The folder of a root in which its jobs are recorded.
REGISTRY = ".raypurify-jobs"
_LONGEST = 2048
# Of a file or folder on a disk, in bytes.
_LONGEST_NAME = 255
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_WILD = frozenset("*?[]{}")
# In a URI these begin options, escapes or another file system, or end a user's name.
_ESCAPES = re.compile(r"[?#%\\@]|::|://")
_ESCAPES_OF_ROOTS = re.compile(r"[?#%\\]|::|://")


class Admitted(NamedTuple):
    """A path or URI that jobs may use, as they get it, the root above it, and the parts of its path below that."""

    uri: str
    root: str
    parts: tuple[str, ...]


def check_root(root: str) -> str:
    """A root as it is kept: a local folder absolute. Raises ConfigError for one that bounds nothing, or holds secrets.

    >>> check_root("/data/jobs/"), check_root("s3://bucket/jobs/?region=eu")
    ('/data/jobs', 's3://bucket/jobs?region=eu')
    """
    if _WILD - {"?"} & set(root):
        raise ConfigError(f"job root {redact(root)}: is no pattern; name a folder or the beginning of URIs as it is")
    if on_disk(root):
        if not root.strip() or os.path.realpath(root) == os.path.sep:
            raise ConfigError(f"job root {root!r} bounds nothing; name a folder for the data sets of jobs")
        return os.path.abspath(root)
    base, options = _split(root)
    scheme, _, path = base.partition("://")
    if scheme.lower() == "file":
        raise ConfigError(f"job root {redact(root)}: write a folder of this machine as a path, without file://")
    if not path.strip("/") or _ESCAPES_OF_ROOTS.search(path) or {".", "..", ""} & {*path.split("/")}:
        raise ConfigError(f"job root {redact(root)}: give a scheme, a bucket and plain names, e.g. s3://bucket/jobs")
    if redact(root) != root:
        raise ConfigError(
            f"job root {redact(root)}: jobs are recorded with their addresses; leave keys and passwords to the "
            "environment of the nodes"
        )
    return base + options


def admit(text: str, roots: Sequence[str], *, output: bool = False) -> Admitted:
    """A path or URI that a caller names, if it lies below one of the ``roots``; below, and not at it, for an output.

    Raises Refused 403 where it does not, and 422 where it is not plainly written.
    """
    if not text or len(text) > _LONGEST or not text.isprintable() or text != text.strip():
        raise _unclear(text, f"give a path or URI of at most {_LONGEST} printable characters, without spaces around it")
    if _WILD & set(text):
        raise _unclear(text, "jobs take no patterns and no options; name folders or files, several as a list")
    found = _below_store(text, roots) if _SCHEME.match(text) else _below_folder(text, roots)
    if any(part.casefold() in (REGISTRY, STATE) for part in found.parts):
        raise Refused(403, "forbidden-path", f"{text}: is where jobs are recorded; name the folder beside it")
    if output and not found.parts:
        raise Refused(403, "forbidden-path", f"{text}: is a job root itself; name a folder below it for the output")
    if output and on_disk(text) and any(len(os.fsencode(part)) > _LONGEST_NAME for part in found.parts):
        raise _unclear(text, f"a name in it is longer than {_LONGEST_NAME} bytes; choose a shorter one")
    if output and on_disk(text):
        # One output has one name, however many links lead to it.
        return found._replace(uri="/".join((found.root.rstrip("/"), *found.parts)))
    return found


def registry_of(root: str) -> Place:
    """The folder in which the jobs of a root are recorded. Raises OSError or ValueError where it is out of reach."""
    return bounded(resolve(root), root) / REGISTRY


def on_disk(path: str) -> bool:
    """Whether a path or root is one of this machine's disks, and no URI."""
    return not _SCHEME.match(path)


def _below_store(text: str, roots: Sequence[str]) -> Admitted:
    held = []
    for root in roots:
        base, options = _split(root)
        if _SCHEME.match(root) and (text == base or text.startswith(base + "/")):
            held.append((len(base), root, options))
    if not held:
        raise _outside(text)
    length, root, options = max(held)
    rest = text[length:].removeprefix("/").removesuffix("/")
    parts = tuple(rest.split("/")) if rest else ()
    if _ESCAPES.search(rest) or {".", "..", ""} & {*parts}:
        raise _unclear(text, "write the names as they are, without options, percent-encoding, empty names, . or ..")
    return Admitted("/".join((text[:length], *parts)) + options, root, parts)


def _below_folder(text: str, roots: Sequence[str]) -> Admitted:
    parts = [part for part in text.split("/") if part]
    if not text.startswith("/") or {".", ".."} & {*parts}:
        raise _unclear(text, "name an absolute path without . and .., or a URI")
    path = "/" + "/".join(parts)
    held = [root for root in roots if on_disk(root) and within(Place(path), Place(root))]
    if not held:
        raise _outside(text)
    root = max(held, key=lambda root: len(os.path.realpath(root)))
    below = os.path.relpath(os.path.realpath(path), os.path.realpath(root))
    return Admitted(path, root, () if below == "." else tuple(below.split("/")))


def _split(root: str) -> tuple[str, str]:
    """A root without its options, and those."""
    base, mark, options = root.partition("?")
    return base.rstrip("/"), mark + options


def _unclear(text: str, why: str) -> Refused:
    return Refused(422, "bad-path", f"{_shown(text)}: {why}")


def _outside(text: str) -> Refused:
    # The roots are not told: they may name what no caller needs to know.
    return Refused(403, "forbidden-path", f"{_shown(text)}: lies below none of the job roots of this endpoint")


def _shown(text: str) -> str:
    return ascii(text[:100])[1:-1] + "…" * (len(text) > 100)
