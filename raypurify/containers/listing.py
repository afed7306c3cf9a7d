"""The names of an input → its files by their path below one folder, and how much is passed over for which reason."""

import os
import posixpath
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from raypurify.containers.ledger import STATE
from raypurify.containers.parquet import PARQUET
from raypurify.containers.patterns import named_by
from raypurify.containers.registry import container_of
from raypurify.errors import SourceError
from raypurify.storage import Place, Stamp, common_folder, overlapped, redact, same_store

# Writers put the compression of the pages at the end, though the file is a Parquet file as it is.
PARQUET_NAME = re.compile(
    r"\.(?:parquet|parq|pq)(?:\.(?:gzip|gz|snappy|zstd|zst|lz4|lzo|br|brotli|bz2))?\Z", re.IGNORECASE
)


@dataclass(frozen=True)
class Inputs:
    """The files of an input: their stamps by their path below ``root``, the deepest folder that holds all of them.

    ``places`` is where no output may be: the folders that are read, or would be if they were new, and of the files that
    are named one by one, or led to by links, one of each folder.
    """

    places: tuple[Place, ...]
    root: Place
    files: dict[str, Stamp]
    ignored: Counter[str]


def list_inputs(uris: Sequence[str | os.PathLike], follow_links: bool = False) -> Inputs:
    """The files that paths, URIs and patterns name; with ``follow_links``, also those below links to folders.

    Raises :class:`SourceError` where one of them names nothing, cannot be listed, or is in another store.
    """
    followed: dict[str, str] | None = {} if follow_links else None
    folders: dict[Place, None] = {}
    files: dict[Place, Stamp] = {}
    ignored: Counter[str] = Counter()
    open_folders: dict[Place, None] = {}
    for named, around in overlapped(lambda uri: named_by(uri, followed), uris):
        open_folders |= dict.fromkeys(around)
        for place, stamp in named:
            if STATE in place.path.split("/"):
                ignored["hidden names"] += 1
            elif stamp is None:
                folders[place] = None
            elif isinstance(stamp, str):
                ignored[stamp] += 1
            else:
                files[place] = stamp
    one_each = {file.parent: file for file in files}
    holding = [*folders, *one_each]
    if not holding:
        raise SourceError(f"{', '.join(map(redact, uris))}: is the record of a job; name the folder beside it")
    if not all(same_store(holding[0], place) for place in holding):
        shown = ", ".join(map(redact, uris))
        raise SourceError(f"{shown}: inputs of two stores cannot be mixed; run one job for each")
    root = common_folder(holding)
    found = {posixpath.relpath(file.path, root.path): stamp for file, stamp in files.items()}
    for folder in folders:
        below = posixpath.relpath(folder.path, root.path)
        before = "" if below == "." else f"{below}/"
        try:
            for path, stamp in folder.walk(followed):
                if _hidden(path):
                    ignored["hidden names"] += 1
                elif isinstance(stamp, str):
                    ignored[stamp] += 1
                else:
                    # Only the key of an object may begin like this.
                    found[posixpath.normpath(before + path) if path.startswith("..") else before + path] = stamp
        except OSError as error:
            raise SourceError(f"{folder}: cannot be listed: {error}; check its permissions") from error
    led_to = [Place(path) for path in (followed or {}).values()]
    places = dict.fromkeys((*folders, *one_each.values(), *led_to, *open_folders))
    return Inputs(tuple(places), root, found, ignored)


def _hidden(path: str) -> bool:
    # Every hidden name begins with one of these, whichever container it is of.
    if not ("/." in path or "/_" in path or path[0] in "._"):
        return False
    container = PARQUET if PARQUET_NAME.search(path) else container_of(path)
    marks = container.hidden if container else "."
    return any(part[0] in marks or part == STATE for part in path.split("/"))
