"""Arrays of NumPy as a container: ``.npy`` files, and ``.npz`` files of several, of which one row is an image.

Images are uint8 (N, H, W, 3), or (N, H, W, 1) of grey ones, in C order; the id of one is the path of its array and its
number. Integers (N,) of a name that :mod:`raypurify.containers.array_labels` knows are their labels. All other arrays
of a file with images, and files of at most two axes without objects, pass as they are; what else is no images is
refused. Outputs have names, shapes and types of the inputs; :mod:`raypurify.containers.array_files` makes them.

Files are read by ranges of bytes and not mapped into memory: so they may lie in a store, and one that is cut short
while a job reads it is an error and not the death of the process.
"""

import posixpath
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from operator import mul
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from raypurify.containers.array_files import InputFile, joining, outputs, records
from raypurify.containers.array_labels import labels_for
from raypurify.containers.array_rows import ArrayCut, Member, read, write
from raypurify.containers.contract import Container, Listing, Plan, Portion
from raypurify.containers.cuts import cut_bytes, cut_rows
from raypurify.containers.look import Asked, Look
from raypurify.containers.npy import Array, read_header, remedy, scan, wanted
from raypurify.containers.npz import member_of, opened_zip, start_of
from raypurify.containers.packed import digest_of, keyed_within, passed_in, pick_rows
from raypurify.containers.rows import file_id, split_suffix
from raypurify.errors import SourceError
from raypurify.storage import Place

_ZIP = ".npz"
_MAX_CLASSES = 100_000


@dataclass(frozen=True)
class _Held:
    """An array of images as planned: its file and look, what it is, the name of its shards and of its labels."""

    path: str
    look: Look
    member: Member
    key: str
    labels: array | None


def look(place: Place, asked: Asked) -> Look:
    """The arrays of a file (``Container.look``), which is read once from end to end: the digest is of all of it.

    Facts: ``arrays``, each as the fields of :class:`raypurify.containers.array_rows.Member`. Arrays: ``labels``, the
    values of those that may be labels, one after the other.
    """
    stamp = place.stamp
    members: list[Member] = []
    digests: dict[str, str] = {}
    values: list[np.ndarray] = []
    passed: Counter[str] = Counter()
    with _opened(place) as file:
        if not _is_zip(place.name):
            array_, digests[""], held = scan(file, stamp[0], str(place))
            members.append(Member("", array_, 0))
            values += [] if held is None else [held]
        else:
            with opened_zip(file, str(place)) as packed:
                for info in packed.infolist():
                    shown = f"{place}: {info.filename}"
                    if not info.filename.endswith(".npy"):
                        passed["members of .npz files that are no arrays"] += 1
                        continue
                    with member_of(packed, info.filename, str(place)) as stream:
                        array_, digests[info.filename], held = scan(stream, info.file_size, shown)
                    values += [] if held is None else [held]
                    members.append(Member(info.filename, array_, start_of(file, info, str(place))))
    alone = not any(member.array.is_images for member in members)
    for member in members:
        steps = remedy(member.array) if member.array.may_be_meant else None
        if steps is not None:
            if alone:
                shown = f"{place}: {member.name}".removesuffix(": ")
                raise SourceError(
                    f"{shown}: is {member.array}; expected images as uint8 (N, H, W, 3), or (N, H, W, 1) of grey; "
                    f"{steps}"
                )
            passed["arrays beside images in .npz files, copied as they are"] += 1
    return Look(
        stamp,
        digests[""] if "" in digests else digest_of(digests),
        sum(member.array.shape[0] for member in members if member.array.is_images),
        passed=dict(passed),
        facts={"arrays": [member.fields for member in members]},
        arrays={"labels": pa.array(np.concatenate(values))} if values else {},
    )


def plan(listing: Listing, looks: Mapping[str, Look]) -> Plan:
    """Rows, classes and shards of arrays (``Container.plan``)."""
    labels, values = _labels_in(looks)
    images = list(_images(listing, looks, labels, values))
    if not images:
        found = [(path, member.array) for path, one in looks.items() for member in _members(one)][:4]
        held = ", ".join(f"{path} is {array}" for path, array in found) or "there is none"
        steps = "; ".join(dict.fromkeys(wanted(array) for _, array in found)) or "write some by numpy.savez"
        raise SourceError(
            f"{listing.root}: no array holds images: {held}; expected images as uint8 (N, H, W, 3), or (N, H, W, 1) of "
            f"grey; {steps}"
        )
    seen: dict[str, str] = {}
    for one in images:
        prefix = _prefix(one.path, one.member)
        if prefix in seen:
            both = f"{file_id(seen[prefix])} and {file_id(one.path)}"
            raise SourceError(f"{listing.root}: {both} would give the same ids; rename one of them")
        seen[prefix] = one.path
    classes = None
    if listing.asked.labels and all(one.labels is not None for one in images):
        count = 1 + max(max(one.labels or (-1,)) for one in images)
        if count > _MAX_CLASSES:
            raise SourceError(
                f"{listing.root}: labels must be class indices below {_MAX_CLASSES:,}, {count - 1:,} is one"
            )
        classes = tuple(map(str, range(count))) or None
    parts = {path: one.digest for path, one in looks.items()}
    files = tuple(InputFile(path, listing.root / path, one.stamp, tuple(_members(one))) for path, one in looks.items())
    return Plan(
        rows=sum(one.rows for one in looks.values()),
        classes=classes,
        digest=digest_of(parts),
        portions=partial(_portions, listing, images),
        passed=passed_in(looks),
        parts=parts,
        joins=files,
    )


def may_hold_images(place: Place) -> bool:
    """Whether a file holds images by its headers alone, or cannot be read, so that it may."""
    try:
        with _opened(place) as file:
            if not _is_zip(place.name):
                return read_header(file, place.stamp[0], str(place)).is_images
            with opened_zip(file, str(place)) as packed:
                for info in packed.infolist():
                    if info.filename.endswith(".npy"):
                        with member_of(packed, info.filename, str(place)) as member:
                            if read_header(member, info.file_size, str(place)).is_images:
                                return True
                return False
    except OSError:  # those of ours among them
        return True


ARRAYS = Container(
    kind="arrays",
    noun="array file",
    suffixes=frozenset((".npy", _ZIP)),
    look=look,
    plan=plan,
    read=read,
    pick=pick_rows,
    write=write,
    outputs=outputs,
    written=records,
    joining=joining,
)


def _is_zip(name: str) -> bool:
    return name.lower().endswith(_ZIP)


@contextmanager
def _opened(place: Place) -> Iterator[BinaryIO]:
    try:
        file = place.open()
    except OSError as error:
        raise SourceError(f"{place}: cannot be opened: {error.strerror or error}; check its permissions") from error
    with file:
        yield file


def _members(one: Look) -> list[Member]:
    return [Member.of(fields) for fields in one.facts["arrays"]]


def _prefix(path: str, member: Member) -> str:
    stem = split_suffix(path)[0]
    return f"{stem}/{split_suffix(member.name)[0]}" if member.name else stem


def _labels_in(looks: Mapping[str, Look]) -> tuple[dict[str, Array], dict[str, np.ndarray]]:
    """All arrays that may be labels, and their values, by their names without suffixes."""
    labels: dict[str, Array] = {}
    values: dict[str, np.ndarray] = {}
    for path, one in looks.items():
        at = 0
        for member in _members(one):
            if member.array.is_labels:
                name, count = _prefix(path, member), member.array.shape[0]
                labels[name], values[name] = member.array, one.arrays["labels"].to_numpy()[at : at + count]
                at += count
    return labels, values


def _images(
    listing: Listing, looks: Mapping[str, Look], labels: Mapping[str, Array], values: Mapping[str, np.ndarray]
) -> Iterator[_Held]:
    """The arrays of images in order. Raises SourceError where labels are asked for, and there are some of another
    length."""
    held = {
        path: {member.name: member for member in _members(one) if member.array.is_images} for path, one in looks.items()
    }
    for key, path, member in keyed_within(listing, held):
        prefix, rows = _prefix(path, member), member.array.shape[0]
        mine, other = labels_for(prefix, rows, labels)
        if mine is None and other is not None and listing.asked.labels:
            raise SourceError(
                f"{listing.root}: {file_id(prefix)} holds {rows:,} images, {file_id(other)} {labels[other].shape[0]:,} "
                "labels; give as many"
            )
        yield _Held(path, looks[path], member, key, None if mine is None else array("q", values[mine].tobytes()))


def _portions(listing: Listing, images: Sequence[_Held], shard_rows: int) -> Iterator[Portion]:
    for one in images:
        rows, *shape = one.member.array.shape
        size = int(np.prod(shape))
        common: dict[str, Any] = {
            "stamp": one.look.stamp,
            "folder": posixpath.dirname(one.path),
            "path": one.path,
            "name": one.member.name,
            "prefix": file_id(_prefix(one.path, one.member)),
            "offset": one.member.array.offset + (one.member.start or 0),
            "packed": one.member.start is None,
            "shape": tuple(shape),
        }
        for number, (start, count) in enumerate(cut_bytes(cut_rows([rows], shard_rows), partial(mul, size))):
            labels = None if one.labels is None else one.labels[start : start + count]
            cut = ArrayCut(span=count, start=start, labels=labels, **common)
            yield Portion(f"{one.key}-{number:05d}", listing.root / one.path, count, cut)
