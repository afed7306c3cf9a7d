"""WebDataset tars as a container: consecutive members of one key are a sample, and one of them is its image.

The key of a member is its path up to the first dot of the file name, the rest is its suffix: ``a/7.jpg`` and
``a/7.cls`` are the sample ``a/7``, whose id has the tar's path in front and whose label ``.cls`` holds. A hard link is
the file that it points to; symbolic links and devices are passed over and counted. Every shard becomes a tar, named
after it.
"""

import copy
import hashlib
import io
import posixpath
import tarfile
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby, pairwise

from raypurify.containers.contract import Container, Images, Listing, Plan, Portion, Sink
from raypurify.containers.cuts import bytes_before, cut_bytes, cut_rows
from raypurify.containers.packed import FileCut, check_stamp, numbered_files, pick_rows, put_file, unique_keys
from raypurify.containers.rows import IMAGE_SUFFIXES, MAX_FILE_BYTES, Row, Shard, counted, file_id
from raypurify.containers.tar_members import Link, Member, TarDamage, members, passed_over, read_member
from raypurify.errors import ImageError, SinkError, SourceError
from raypurify.storage import Place, Stamp

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


@dataclass(frozen=True, kw_only=True)
class TarCut(FileCut):
    """Samples of a tar from the one whose first header stands at byte ``offset``. ``prefix``, the tar's path without
    its suffix, begins their ids; ``links`` are the hard links among their members."""

    offset: int
    prefix: str
    links: tuple[Link, ...] = ()


@dataclass(frozen=True)
class _Tar:
    """One tar as planned: where each of its samples begins, and the hard links."""

    place: Place
    path: str
    key: str
    stamp: Stamp
    offsets: array = field(default_factory=partial(array, "q"))
    links: list[Link] = field(default_factory=list)


def plan(listing: Listing) -> Plan:
    """Rows, classes and shards of tars (``Container.plan``). Every header is read, and the ``.cls`` members.

    Raises SourceError naming a tar that is damaged, or holds a key twice, apart, or with two images.
    """
    digest, labels, paths = hashlib.sha256(), set(), list(listing.stamps)
    tars: list[_Tar] = []
    passed: Counter[str] = Counter()
    for stem, path in zip(unique_keys(paths), paths):
        place = listing.root / path
        tar = _Tar(place, path, stem, place.stamp)
        for key, offset, label, mark in _scan(place, tar.links, passed):
            digest.update(f"{path}\0{key}\0{mark}\n".encode("utf-8", "surrogateescape"))
            tar.offsets.append(offset)
            if label is not None:
                labels.add(label)
        tars.append(tar)
    rows = sum(len(tar.offsets) for tar in tars)
    if not rows:
        raise SourceError(f"{listing.root}: the tars hold no samples")
    classes = tuple(map(str, range(max(labels) + 1))) if labels else None
    return Plan(rows, classes, digest.hexdigest(), partial(_portions, tars), dict(passed))


def read(shard: Shard) -> Iterator[Row]:
    """The rows of a tar's shard (``Container.read``)."""
    for row, sample in enumerate(read_samples(shard), shard.first_row):
        identity, data, error = _id(shard, sample), None, None
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


def write(sink: Sink, shard: Shard, images: Images) -> dict[int, str]:
    """One tar of the shard's samples, every sidecar in its place (``Container.write``)."""
    buffer = io.BytesIO()
    with tarfile.open(
        fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8", errors="surrogateescape"
    ) as tar:
        for sample, (row, image) in zip(read_samples(shard), images):
            if _id(shard, sample) != row.id:
                raise SinkError(f"{shard.place}: changed while shard {shard.name} was worked on; run again")
            if isinstance(image, ImageError):
                continue
            for number, (member, held) in enumerate(sample.members):
                entry = copy.copy(member)
                if number == sample.image:
                    entry.name, held = sample.key + sink.suffix, image
                assert held is not None  # only an image may be too large to read
                entry.size, entry.pax_headers = len(held), {}
                tar.addfile(entry, io.BytesIO(held))
    return put_file(sink, shard, ".tar", buffer.getvalue())


WEBDATASET = Container(
    kind="tar",
    noun="tar",
    suffixes=frozenset((".tar",)),
    plan=plan,
    read=read,
    pick=pick_rows,
    write=write,
    written=partial(numbered_files, suffix=".tar"),
)


def read_samples(shard: Shard) -> Iterator[Sample]:
    """The samples of a shard, in their order. Raises SourceError where the tar has changed since it was planned."""
    return counted(shard, _read_samples(shard))


def _read_samples(shard: Shard) -> Iterator[Sample]:
    check_stamp(shard)
    cut: TarCut = shard.cut
    wanted = None if cut.picked is None else set(cut.picked)
    with _opened(shard.place, cut.offset) as tar:
        for number, (key, held) in enumerate(_grouped(tar, cut.offset, cut.links)):
            if wanted is None or number in wanted:
                data = tuple((member.info, _read(tar, member, shard.place)) for member in held)
                yield Sample(key, data, _image_of(shard.place, key, held))
            if number + 1 == cut.span:
                return


def suffix_of(name: str) -> tuple[str, str]:
    """``(key, suffix)`` of a member's name.

    >>> suffix_of("a.b/7.seg.png")
    ('a.b/7', '.seg.png')
    """
    folder, base = posixpath.split(name)
    stem, dot, rest = base.partition(".")
    return posixpath.join(folder, stem), dot + rest


def _portions(tars: Sequence[_Tar], shard_rows: int) -> Iterator[Portion]:
    for tar in tars:
        folder, prefix = posixpath.dirname(tar.path), posixpath.splitext(tar.path)[0]
        cuts = cut_bytes(cut_rows([len(tar.offsets)], shard_rows), bytes_before(_sample_sizes(tar)))
        for number, (start, rows) in enumerate(cuts):
            offset, stop = tar.offsets[start], (*tar.offsets[start + rows : start + rows + 1], tar.stamp[0])[0]
            links = tuple(tar.links[bisect_left(tar.links, (offset,)) : bisect_left(tar.links, (stop,))])
            cut = TarCut(stamp=tar.stamp, folder=folder, span=rows, offset=offset, prefix=prefix, links=links)
            yield Portion(f"{tar.key}-{number:05d}", tar.place, rows, cut)


def _sample_sizes(tar: _Tar) -> list[int]:
    """The bytes of each sample with its sidecars, and with those that its hard links stand for."""
    sizes = [stop - start for start, stop in pairwise((*tar.offsets, tar.stamp[0]))]
    for link in tar.links:
        sizes[bisect_right(tar.offsets, link.at) - 1] += link.size
    return sizes


def _id(shard: Shard, sample: Sample) -> str:
    return file_id(f"{shard.cut.prefix}/{sample.key}")


def _scan(place: Place, links: list[Link], passed: Counter[str]) -> Iterator[tuple[str, int, int | None, str]]:
    """(key, offset of its first header, label, what tells it from another) of every sample. Adds the hard links to
    ``links``, and what is passed over to ``passed``."""
    seen: set[str] = set()
    with _opened(place, 0) as tar:
        for key, held in _grouped(tar, 0, None, passed):
            if key in seen:
                raise SourceError(
                    f"{place}: the members of sample {file_id(key)!r} do not stand together, or it comes twice; "
                    "sort the tar by name, and give each sample a name of its own"
                )
            seen.add(key)
            _image_of(place, key, held)
            links += (Link(member.at, member.source, member.info.size) for member in held if member.source != member.at)
            labelled = [m for m in held if suffix_of(m.info.name)[1] == ".cls" and m.info.size <= _MAX_LABEL_BYTES]
            label = _number(read_member(tar, labelled[0])) if labelled else None
            yield key, held[0].at, label, " ".join(f"{m.info.name}:{m.info.size}" for m in held)


def _grouped(
    tar: tarfile.TarFile, offset: int, links: Sequence[Link] | None, passed: Counter[str] | None = None
) -> Iterator[tuple[str, list[Member]]]:
    def files() -> Iterator[Member]:
        for member in members(tar, offset, links):
            if member.info.isreg():
                yield member
            elif passed is not None and (reason := passed_over(member.info)):
                passed[reason] += 1

    for key, group in groupby(files(), key=lambda member: suffix_of(member.info.name)[0]):
        yield key, list(group)


def _image_of(place: Place, key: str, held: Sequence[Member]) -> int | None:
    found = [k for k, member in enumerate(held) if suffix_of(member.info.name)[1].lower() in IMAGE_SUFFIXES]
    if len(found) > 1:
        names = " and ".join(file_id(held[k].info.name) for k in found[:2])
        raise SourceError(f"{place}: sample {file_id(key)!r} has two images, {names}; rename one, e.g. to {key}.1.png")
    return found[0] if found else None


def _read(tar: tarfile.TarFile, member: Member, place: Place) -> bytes | None:
    name, size = member.info.name, member.info.size
    image = suffix_of(name)[1].lower() in IMAGE_SUFFIXES
    if size > MAX_FILE_BYTES and image:
        return None
    if size > _MAX_SIDECAR_BYTES and not image:
        raise SourceError(f"{place}: {file_id(name)} holds {size:,} bytes; a sidecar may hold 64 MiB")
    return read_member(tar, member)


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
    except TarDamage as error:
        raise SourceError(f"{place}: {error}") from error
    except (OSError, tarfile.TarError, EOFError) as error:
        raise SourceError(f"{place}: is no readable tar: {error}; a compressed one has to be unpacked first") from error
