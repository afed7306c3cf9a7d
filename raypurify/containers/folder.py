"""Folders of image files as a container: every image below is a row, and becomes a file of its name in the output.

The id of an image is its path below the folder. Where every image lies in a subfolder, the first level of subfolders
are the classes. ``a/b.jpg`` becomes ``a/b.png``; where two inputs would meet (``b.jpg``, ``b.bmp``), the one that
already has the suffix keeps its name, the others become ``b.jpg.png``, as does one whose output would have the name of
a folder of the output.
"""

import hashlib
import posixpath
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice

import numpy as np

from raypurify.containers.contract import Container, Images, Listing, Outputs, Plan, Portion, Sink
from raypurify.containers.cuts import bytes_before, cut_bytes
from raypurify.containers.look import Look
from raypurify.containers.rows import IMAGE_SUFFIXES, MAX_FILE_BYTES, Row, Shard, file_id, split_suffix
from raypurify.errors import ImageError, SourceError
from raypurify.storage import Place, Stamp, overlapped, within

# Names that are hashed with one call.
_AT_ONCE = 4096


@dataclass(frozen=True)
class FolderCut:
    """The images of a shard: their paths below its folder, and the stamps they had when the job was planned. Links
    that lead out of the folder are read where ``follow_links`` says so.

    A driver keeps those of all shards, so they are one text and one array of numbers.
    """

    joined: str
    numbers: array
    follow_links: bool = False

    @property
    def paths(self) -> list[str]:
        """The paths, in order."""
        return self.joined.split("\0")

    @property
    def stamps(self) -> list[Stamp]:
        """The stamp of each path."""
        return [*zip(self.numbers[::2], self.numbers[1::2])]


def folder_cut(paths: Iterable[str], stamps: Iterable[Stamp], follow_links: bool = False) -> FolderCut:
    """The cut of these images."""
    return FolderCut("\0".join(paths), array("q", chain.from_iterable(stamps)), follow_links)


def plan(listing: Listing, looks: Mapping[str, Look]) -> Plan:
    """Rows, classes and shards of the image files of a folder (``Container.plan``), by their names alone."""
    encoded = Counter(name for path in listing.stamps if (name := file_id(path)) != path)
    repeated = next((name for name, times in encoded.items() if times > 1 or name in listing.stamps), None)
    if repeated is not None:
        raise SourceError(f"{listing.root}: two file names give the id {repeated}; rename one of them")
    digest = hashlib.sha256()
    sized = iter(listing.stamps.items())
    while some := "".join([f"{path}\0{size}\n" for path, (size, _) in islice(sized, _AT_ONCE)]):
        digest.update(some.encode("utf-8", "surrogateescape"))
    classes = None
    if all("/" in path for path in listing.stamps):
        classes = sorted({path[: path.index("/")] for path in listing.stamps})
    return Plan(
        rows=len(listing.stamps),
        classes=None if classes is None else tuple(map(file_id, classes)),
        digest=digest.hexdigest(),
        portions=partial(_portions, listing),
    )


def read(shard: Shard) -> Iterator[Row]:
    """The rows of a folder's shard (``Container.read``), several files at once."""
    index = {name: number for number, name in enumerate(shard.classes or ())}
    paths, stamps = shard.cut.paths, shard.cut.stamps

    def row(number: int) -> Row:
        path = paths[number]
        label = index[file_id(path.split("/")[0])] if index else None
        try:
            root = None if shard.cut.follow_links else shard.place
            data, error = _read_file(shard.place / path, root, stamps[number]), None
        except ImageError as refused:
            data, error = None, refused
        return Row(file_id(path), shard.first_row + number, data, label, error)

    return overlapped(row, range(len(paths)))


def pick(cut: FolderCut, rows: Sequence[int]) -> FolderCut:
    """The cut of some of its files (``Container.pick``)."""
    paths, stamps = cut.paths, cut.stamps
    return folder_cut((paths[row] for row in rows), (stamps[row] for row in rows), cut.follow_links)


def write(sink: Sink, shard: Shard, images: Images) -> Outputs:
    """One file for each image, several at once (``Container.write``)."""

    def put(path: str, row: Row, image: bytes | ImageError) -> tuple[int, str | ImageError] | None:
        name = sink.renamed.get(path) or split_suffix(path)[0] + sink.suffix
        if isinstance(image, ImageError):
            # A killed attempt may have written an image that can no longer be read.
            sink.remove(name)
            return None
        try:
            sink.put(name, image)
        except ImageError as error:
            return row.row, error
        return row.row, file_id(name)

    files = ((path, row, image) for path, (row, image) in zip(shard.cut.paths, images))
    return dict(filter(None, overlapped(lambda file: put(*file), files)))


def renamed(shards: Sequence[Shard], suffix: str) -> dict[str, str]:
    """The outputs, by the path of their image, that are not stem + ``suffix``, because those of two would meet, or one
    a folder."""

    def plain(path: str) -> str:
        return split_suffix(path)[0] + suffix

    def paths() -> Iterator[str]:
        return (path for shard in shards for path in shard.cut.paths)

    # Names are compared by their hashes first: a set of a million of them would be large.
    marks = np.fromiter((hash(plain(path)) for path in paths()), np.int64)
    marks.sort()
    often = set(marks[1:][marks[1:] == marks[:-1]].tolist())
    alike = [path for path in paths() if hash(plain(path)) in often] if often else []
    wanted, folders = Counter(map(plain, alike)), _folders(paths())
    meeting = {path for path in alike if plain(path) != path and wanted[plain(path)] > 1}
    if np.isin(np.fromiter(map(hash, folders), np.int64), marks).any():
        meeting |= {path for path in paths() if plain(path) in folders}
    if not meeting:
        return {}
    # A longer name may be the plain one of another image.
    taken = folders | {name for path in paths() if _longer_than(meeting, name := plain(path), suffix)}
    found = {}
    for path in sorted(meeting):
        name = path + suffix
        while name in taken:
            name += suffix
        taken.add(name)
        found[path] = name
    return found


def outputs(shards: Sequence[Shard], joins: None, suffix: str) -> Iterator[str]:
    """The names of the outputs of all images (``Container.outputs``)."""
    other = renamed(shards, suffix)
    return (other.get(path) or split_suffix(path)[0] + suffix for shard in shards for path in shard.cut.paths)


FOLDER = Container(
    kind="folder",
    noun="image",
    suffixes=IMAGE_SUFFIXES,
    plan=plan,
    read=read,
    pick=pick,
    write=write,
    outputs=outputs,
    renamed=renamed,
)


def _folders(paths: Iterable[str]) -> set[str]:
    """All folders that hold one of the ``paths``."""
    found, left = set[str](), {path[: path.rfind("/") + 1].rstrip("/") for path in paths}
    while left := left - found:
        found |= left
        left = {posixpath.dirname(folder) for folder in left}
    return found


def _longer_than(bases: set[str], name: str, suffix: str) -> bool:
    """Whether a name is one of ``bases`` with the suffix behind it, once or more often."""
    while name.endswith(suffix):
        name = name.removesuffix(suffix)
        if name in bases:
            return True
    return False


def _portions(listing: Listing, shard_rows: int) -> Iterator[Portion]:
    files = iter(listing.stamps.items())
    before = bytes_before([size for size, _ in listing.stamps.values()])
    for number, (_, rows) in enumerate(cut_bytes(_even_cuts(len(listing.stamps), shard_rows), before)):
        paths, stamps = zip(*islice(files, rows))
        yield Portion(f"part-{number:05d}", listing.root, rows, folder_cut(paths, stamps, listing.follow_links))


def _even_cuts(files: int, shard_rows: int) -> Iterator[tuple[int, int]]:
    for first in range(0, files, shard_rows):
        yield first, min(shard_rows, files - first)


def _read_file(file: Place, root: Place | None, stamp: Stamp) -> bytes:
    """The bytes of one image, which lies within ``root`` where that is given."""
    try:
        if root is not None and not within(file, root):
            raise ImageError("unreadable", f"{file}: a link that leads out of {root}; --follow-links reads it")
        data = file.read(MAX_FILE_BYTES + 1)
        # A store would be asked once more for every file.
        found = file.stamp if file.remote is None else (len(data), stamp[1])
    except OSError as error:
        if file.remote is not None and not isinstance(error, FileNotFoundError | PermissionError):
            # A store that is out of reach says nothing of the image.
            raise SourceError(f"{file}: cannot be read: {error}; run again when it is in reach") from error
        raise ImageError("unreadable", f"{file}: {error.strerror or error}") from error
    if len(data) > MAX_FILE_BYTES:
        raise ImageError("too-large", f"{file}: more than {MAX_FILE_BYTES:,} bytes")
    if found != stamp:
        raise ImageError("changed", f"{file}: changed since the job was planned; purify it again when it is whole")
    if not data:
        raise ImageError("empty", f"{file}: the file holds no bytes")
    return data
