"""Folders of images, Parquet files and WebDataset tars → shards of rows, the input of ``fit`` and ``purify`` alike.

A shard is the unit of work and of commit: about ``shard_rows`` rows that one task reads, purifies and writes. The
order of shards and rows depends on names alone, so a rerun cuts the same shards.
"""

import hashlib
import os
import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from raypurify.containers import webdataset
from raypurify.containers.parquet import plan_shards, read_rows
from raypurify.containers.rows import IMAGE_SUFFIXES, MAX_FILE_BYTES, Row, Shard, file_id
from raypurify.errors import ImageError, SourceError
from raypurify.storage import Place, Stamp, common_folder, overlapped, redact, resolve, same_store, within


@dataclass(frozen=True)
class Source:
    """An input: its shards, the total of rows, the class names (None without labels), the number of files that were
    passed over because they are no images, and a ``digest`` of names, sizes and Parquet footers (not of contents)."""

    kind: str
    uris: tuple[str, ...]
    places: tuple[Place, ...]
    shards: tuple[Shard, ...]
    rows: int
    classes: tuple[str, ...] | None
    digest: str
    ignored: int = 0


def open_source(
    uris: str | os.PathLike | Sequence[str | os.PathLike], *, shard_rows: int = 256, image_column: str = "image"
) -> Source:
    """Look at a folder of images, at Parquet files or tars or a folder of them, or at a list of such.

    Paths may be local, ``file://`` or any URI that pyarrow or fsspec knows. **Folder:** every regular file below with
    an image suffix is a row; its id is the path relative to the folder (for a list: to the deepest folder that holds
    all of it), a name that is not UTF-8 is percent-encoded; if every image lies in a subfolder, the first level of
    subfolders are the classes, sorted. Names starting with a dot and links to folders are passed over.
    **Parquet:** ``image_column`` is binary or a struct with a field ``bytes``; ``id``, ``label``, ``label_name`` are
    optional; files and folders whose name starts with ``_`` or a dot are passed over. **WebDataset:** tars, as
    :mod:`raypurify.containers.webdataset` reads them; the id is the tar's path and the sample's key, ``.cls`` its
    label.

    Raises :class:`SourceError` naming what is missing, empty, mixed, not readable or not unique.

    >>> open_source("/no/such/folder")
    Traceback (most recent call last):
    ...
    raypurify.errors.SourceError: /no/such/folder: no such file or folder; check the path
    """
    if shard_rows < 1:
        raise SourceError(f"shard_rows is {shard_rows}; it must be 1 or more")
    given = [uris] if isinstance(uris, str | os.PathLike) else list(uris)
    if not given:
        raise SourceError("no input given; name a folder of images or Parquet files")
    shown = tuple(redact(uri) for uri in given)
    places = tuple(dict.fromkeys(_find(uri) for uri in given))
    if not all(same_store(places[0], place) for place in places):
        raise SourceError(f"{', '.join(shown)}: inputs of two stores cannot be mixed; run one job for each")
    kinds = [place.kind for place in places]
    root = common_folder([place if kind == "folder" else place.parent for place, kind in zip(places, kinds)])
    files, ignored = _list_files(places, kinds, root)
    images = sorted(path for path in files if _suffix(path) in IMAGE_SUFFIXES)
    tables = sorted(path for path in files if _suffix(path) == ".parquet")
    tars = sorted(path for path in files if _suffix(path) == ".tar")
    where = ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")
    found = [(what, paths) for what, paths in (("images", images), ("Parquet files", tables), ("tars", tars)) if paths]
    if len(found) > 1:
        (one, first), (other, second) = found[:2]
        raise SourceError(f"{where}: holds both {one} ({first[0]}) and {other} ({second[0]}); name files of one kind")
    if not found:
        known = " ".join(sorted(IMAGE_SUFFIXES))
        others = ignored + len(files)
        raise SourceError(
            f"{where}: holds no image, Parquet file or tar ({others} others); known: .parquet .tar {known}"
        )
    ignored += len(files) - len(found[0][1])
    kind = {"images": "folder", "Parquet files": "parquet", "tars": "tar"}[found[0][0]]
    if kind == "parquet":
        shards, classes, digest = plan_shards(root, tables, shard_rows, image_column)
    elif kind == "tar":
        shards, classes, digest = webdataset.plan_shards(root, tars, shard_rows)
    else:
        shards, classes, digest = _plan_folder(root, images, files, shard_rows)
    return Source(kind, shown, places, shards, sum(s.rows for s in shards), classes, digest, ignored)


def read_shard(shard: Shard) -> Iterator[Row]:
    """The rows of one shard, in order, read as they are asked for. A row that cannot be read carries an ``error``.

    Raises :class:`SourceError` where the whole file is gone or damaged since ``open_source``.
    """
    return {"parquet": read_rows, "tar": webdataset.read_rows, "folder": _read_folder}[shard.kind](shard)


def _find(uri: str | os.PathLike) -> Place:
    try:
        place = resolve(uri)
        if place.kind is not None:
            return place
    except (OSError, ValueError, ImportError) as error:
        raise SourceError(f"{redact(uri)}: cannot be reached: {error}") from error
    raise SourceError(f"{redact(uri)}: no such file or folder; check the path")


def _suffix(path: str) -> str:
    return posixpath.splitext(path)[1].lower()


def _list_files(places: Sequence[Place], kinds: Sequence[str], root: Place) -> tuple[dict[str, Stamp], int]:
    files: dict[str, Stamp] = {}
    ignored = 0
    for place, kind in zip(places, kinds):
        below = posixpath.relpath(place.path, root.path)
        try:
            if kind == "file":
                files[below] = place.stamp
                continue
            for path, stamp in place.walk():
                parts = path.split("/")
                hidden = any(part[0] == "." or part == "_raypurify" for part in parts)
                aside = _suffix(path) == ".parquet" and any(part[0] == "_" for part in parts)
                if hidden or aside or stamp is None:
                    ignored += 1
                else:
                    files[posixpath.normpath(posixpath.join(below, path))] = stamp
        except OSError as error:
            raise SourceError(f"{place}: cannot be listed: {error}") from error
    return files, ignored


def _plan_folder(root: Place, paths: list[str], stamps: dict[str, Stamp], shard_rows: int):
    repeated = [name for name, count in Counter(map(file_id, paths)).items() if count > 1]
    if repeated:
        raise SourceError(f"{root}: two file names give the id {repeated[0]}; rename one of them")
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path}\0{stamps[path][0]}\n".encode("utf-8", "surrogateescape"))
    classes = tuple(sorted({path.split("/")[0] for path in paths})) if all("/" in path for path in paths) else None
    if classes is not None:
        classes = tuple(map(file_id, classes))
    shards = tuple(
        Shard(
            index=number,
            name=f"part-{number:05d}",
            kind="folder",
            place=root,
            first_row=first,
            rows=len(paths[first : first + shard_rows]),
            paths=tuple(paths[first : first + shard_rows]),
            classes=classes,
            stamps=tuple(stamps[path] for path in paths[first : first + shard_rows]),
        )
        for number, first in enumerate(range(0, len(paths), shard_rows))
    )
    return shards, classes, digest.hexdigest()


def _read_folder(shard: Shard) -> Iterator[Row]:
    index = {name: number for number, name in enumerate(shard.classes or ())}

    def read(number: int) -> Row:
        path = shard.paths[number]
        label = index[file_id(path.split("/")[0])] if index else None
        try:
            data, error = _read_file(shard.place / path, shard.place, shard.stamps[number]), None
        except ImageError as refused:
            data, error = None, refused
        return Row(file_id(path), shard.first_row + number, data, label, error)

    return overlapped(read, range(len(shard.paths)))


def _read_file(file: Place, root: Place, stamp: Stamp) -> bytes:
    try:
        if not within(file, root):
            raise ImageError("unreadable", f"{file}: a link that leads out of {root}; copy the file instead")
        data = file.read(MAX_FILE_BYTES + 1)
        # A store would be asked once more for every file.
        found = file.stamp if file.remote is None else (len(data), stamp[1])
    except OSError as error:
        if file.remote is not None and not isinstance(error, FileNotFoundError | PermissionError):
            # A store that is out of reach says nothing of the image.
            raise SourceError(f"{file}: cannot be read: {error}") from error
        raise ImageError("unreadable", f"{file}: {error.strerror or error}") from error
    if len(data) > MAX_FILE_BYTES:
        raise ImageError("too-large", f"{file}: more than {MAX_FILE_BYTES:,} bytes")
    if found != stamp:
        raise ImageError("changed", f"{file}: changed since the job was planned; purify it again when it is whole")
    if not data:
        raise ImageError("empty", f"{file}: the file holds no bytes")
    return data
