"""WebDataset tars as a source: consecutive members of one key are a sample, and one of them is its image.

The key of a member is its path up to the first dot of the file name, the rest is its suffix: ``a/7.jpg`` and
``a/7.cls`` are the sample ``a/7``. Members that are no regular files are passed over.
"""

import hashlib
import posixpath
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby

from raypurify.containers.parquet import check_stamp, cut, unique_keys
from raypurify.containers.rows import IMAGE_SUFFIXES, MAX_FILE_BYTES, Row, Shard, file_id
from raypurify.errors import ImageError, SourceError
from raypurify.storage import Place

# Sidecars are held in memory with the images of their shard.
_MAX_SIDECAR_BYTES = 64 << 20
_MAX_LABEL_BYTES = 32
# Many headers and small members in one request to a store.
_READ_AHEAD = 4 << 20


@dataclass(frozen=True)
class Sample:
    """One sample: its key, its members with their bytes (None: too large to read), and the one that is the image."""

    key: str
    members: tuple[tuple[tarfile.TarInfo, bytes | None], ...]
    image: int | None


def plan_shards(
    root: Place, paths: Sequence[str], shard_rows: int
) -> tuple[tuple[Shard, ...], tuple[str, ...] | None, str]:
    """Shards, classes and digest of the tars ``paths`` below ``root``; every header is read, and the ``.cls`` members.

    Raises SourceError naming a tar that is damaged, or holds a key twice, apart, or with two images.
    """
    digest, planned, labels = hashlib.sha256(), [], set()
    for stem, path in zip(unique_keys(paths), paths):
        place = root / path
        stamp, offsets = place.stamp, []
        for key, offset, label, mark in _scan(place):
            digest.update(f"{path}\0{key}\0{mark}\n".encode("utf-8", "surrogateescape"))
            offsets.append(offset)
            labels.add(label)
        prefix = posixpath.splitext(path)[0]
        for number, (start, rows) in enumerate(cut([len(offsets)], shard_rows) if offsets else ()):
            planned.append((f"{stem}-{number:05d}", place, stamp, prefix, offsets[start], rows))
    if not planned:
        raise SourceError(f"{root}: the tars hold no samples")
    labels.discard(None)
    classes = tuple(map(str, range(max(labels) + 1))) if labels else None
    shards, first = [], 0
    for index, (name, place, stamp, prefix, start, rows) in enumerate(planned):
        place_of = {"start": start, "key": prefix, "folder": posixpath.dirname(prefix)}
        shards.append(Shard(index, name, "tar", place, first, rows, **place_of, classes=classes, stamps=(stamp,)))
        first += rows
    return tuple(shards), classes, digest.hexdigest()


def read_rows(shard: Shard) -> Iterator[Row]:
    """The rows of a tar's shard; see :func:`raypurify.containers.source.read_shard`."""
    for row, sample in enumerate(read_samples(shard), shard.first_row):
        identity, data, error = file_id(f"{shard.key}/{sample.key}"), None, None
        if sample.image is None:
            error = ImageError("empty", f"{shard.place}: sample {file_id(sample.key)} holds no image")
        else:
            member, data = sample.members[sample.image]
            where = f"{shard.place}: {file_id(member.name)}"
            if data is None:
                error = ImageError("too-large", f"{where} holds {member.size:,} bytes, the limit is {MAX_FILE_BYTES:,}")
            elif not data:
                data, error = None, ImageError("empty", f"{where} holds no bytes")
        yield Row(identity, row, data, _label(sample) if shard.classes else None, error)


def read_samples(shard: Shard) -> Iterator[Sample]:
    """The samples of a shard, in their order. Raises SourceError where the tar has changed since it was planned."""
    check_stamp(shard)
    wanted = set(shard.picked) if shard.picked is not None else None
    with _opened(shard.place, shard.start) as tar:
        for number, (key, members) in enumerate(_grouped(tar)):
            if number == shard.span:
                return
            if wanted is None or number in wanted:
                held = tuple((member, _read(tar, member, shard.place)) for member in members)
                yield Sample(key, held, _image_of(shard.place, key, members))


def suffix_of(name: str) -> tuple[str, str]:
    """``(key, suffix)`` of a member's name.

    >>> suffix_of("a.b/7.seg.png")
    ('a.b/7', '.seg.png')
    """
    folder, base = posixpath.split(name)
    stem, dot, rest = base.partition(".")
    return posixpath.join(folder, stem), dot + rest


def _scan(place: Place) -> Iterator[tuple[str, int, int | None, str]]:
    """(key, offset of its first header, label, what tells it from another) of every sample."""
    seen: set[str] = set()
    with _opened(place, 0) as tar:
        for key, members in _grouped(tar):
            if key in seen:
                raise SourceError(
                    f"{place}: the members of sample {file_id(key)!r} do not stand together, or it comes twice; "
                    "sort the tar by name, and give each sample a name of its own"
                )
            seen.add(key)
            _image_of(place, key, members)
            labelled = [m for m in members if suffix_of(m.name)[1] == ".cls" and m.size <= _MAX_LABEL_BYTES]
            label = _number(tar.extractfile(labelled[0]).read()) if labelled else None
            yield key, members[0].offset, label, " ".join(f"{m.name}:{m.size}" for m in members)


def _grouped(tar: tarfile.TarFile) -> Iterator[tuple[str, list[tarfile.TarInfo]]]:
    members = (member for member in _members(tar) if member.isreg())
    for key, group in groupby(members, key=lambda member: suffix_of(member.name)[0]):
        yield key, list(group)


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := tar.next()) is not None:
        # Python would keep every header of the file.
        tar.members = []
        yield member


def _image_of(place: Place, key: str, members: Sequence[tarfile.TarInfo]) -> int | None:
    found = [k for k, member in enumerate(members) if suffix_of(member.name)[1].lower() in IMAGE_SUFFIXES]
    if len(found) > 1:
        names = " and ".join(file_id(members[k].name) for k in found[:2])
        raise SourceError(f"{place}: sample {file_id(key)!r} has two images, {names}; rename one, e.g. to {key}.1.png")
    return found[0] if found else None


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo, place: Place) -> bytes | None:
    image = suffix_of(member.name)[1].lower() in IMAGE_SUFFIXES
    if member.size > MAX_FILE_BYTES and image:
        return None
    if member.size > _MAX_SIDECAR_BYTES and not image:
        raise SourceError(f"{place}: {file_id(member.name)} holds {member.size:,} bytes; a sidecar may hold 64 MiB")
    data = tar.extractfile(member).read()
    if len(data) < member.size:
        raise tarfile.ReadError("it ends within a member")
    return data


def _label(sample: Sample) -> int | None:
    for member, data in sample.members:
        if suffix_of(member.name)[1] == ".cls" and data is not None and len(data) <= _MAX_LABEL_BYTES:
            return _number(data)
    return None


def _number(data: bytes) -> int | None:
    text = data.strip()
    return int(text) if text.isdigit() and len(text) < 6 else None


@contextmanager
def _opened(place: Place, offset: int) -> Iterator[tarfile.TarFile]:
    try:
        with place.open(_READ_AHEAD) as raw:
            raw.seek(offset)
            with tarfile.open(fileobj=raw, mode="r:", errors="surrogateescape", encoding="utf-8") as tar:
                yield tar
    except (OSError, tarfile.TarError, EOFError) as error:
        raise SourceError(f"{place}: is no readable tar: {error}; a compressed one has to be unpacked first") from error
