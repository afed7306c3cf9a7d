"""Looking into a tar once: where each of its samples begins, its hard links, and the tars that it may hold instead."""

import hashlib
import posixpath
import tarfile
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pyarrow as pa

from raypurify.containers.look import Asked, Look
from raypurify.containers.passed_over import UNREAD_SUFFIXES
from raypurify.containers.rows import file_id
from raypurify.containers.tar_members import Link, Member, read_member
from raypurify.containers.tar_names import suffix_of
from raypurify.containers.tar_rows import MAX_LABEL_BYTES, label_number
from raypurify.containers.tar_samples import Group, codec_in, groups, opened, tar_within
from raypurify.containers.tar_stream import PLAIN
from raypurify.errors import SourceError
from raypurify.storage import Place

TAR_SUFFIXES = frozenset((".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst"))


@dataclass(frozen=True)
class _Tar:
    """One tar as scanned: the file, how that is compressed, by row where its sample begins and the bytes of its
    members, and the hard links. Of a tar in a tar, ``name`` is that of the member, whose header stands at byte
    ``outer``."""

    place: Place
    codec: str
    name: str = ""
    outer: int | None = None
    offsets: array = field(default_factory=partial(array, "q"))
    sizes: array = field(default_factory=partial(array, "q"))
    links: list[Link] = field(default_factory=list)


def look(place: Place, asked: Asked) -> Look:
    """What a tar holds (``Container.look``): every header is read, and where labels are asked for the ``.cls`` members.

    Facts: ``classes``, one more than the highest label; ``images``, how many members are images; ``codec``; ``tars``,
    the (name, outer, rows, links) of each tar in it, or of itself alone. Arrays: ``offsets`` and ``sizes`` by row,
    and ``links`` as (at, target, size), of one tar after the other.

    Raises SourceError where it is damaged, or holds a key twice or apart, or tars that cannot be read where they are.
    """
    digest, stamp = hashlib.sha256(), place.stamp
    tars: list[_Tar] = []
    passed: Counter[str] = Counter()
    classes = images = 0
    with opened(place) as opened_tar:
        codec = codec_in(opened_tar)
        for inner, group, label in _scan(opened_tar, _Tar(place, codec), asked, tars, passed):
            where = f"{inner}\0" if inner else ""
            digest.update(f"{where}{group.key}\0{_mark(group)}\n".encode("utf-8", "surrogateescape"))
            images += len(group.images)
            classes = max(classes, 0 if label is None else label + 1)
    arrays = {"offsets": _joined(tar.offsets for tar in tars), "sizes": _joined(tar.sizes for tar in tars)}
    if any(tar.links for tar in tars):
        arrays["links"] = pa.array(np.array([link for tar in tars for link in tar.links], np.int64).ravel())
    names = [tar.name.encode("utf-8", "surrogateescape").decode("latin-1") for tar in tars]
    held = [[name, tar.outer, len(tar.offsets), len(tar.links)] for name, tar in zip(names, tars)]
    facts = {"classes": classes, "images": images, "codec": codec, "tars": held}
    return Look(stamp, digest.hexdigest(), len(arrays["offsets"]), dict(passed), facts, arrays)


def _joined(parts: Iterable[array]) -> pa.Array:
    return pa.array(np.concatenate([np.zeros(0, np.int64), *(np.array(part, np.int64) for part in parts)]))


def _scan(
    tar: tarfile.TarFile, about: _Tar, asked: Asked, tars: list[_Tar], passed: Counter[str]
) -> Iterator[tuple[str, Group, int | None]]:
    """The name of its tar, what it is made of, and the label where that is asked for, of every sample. Adds the tars to
    ``tars``, and what is passed over to ``passed``."""
    seen: set[str] = set()
    nests: bool | None = None

    def take(member: Member) -> int | None:
        is_label = asked.labels and suffix_of(member.info.name)[1] == ".cls" and member.info.size <= MAX_LABEL_BYTES
        return label_number(read_member(tar, member)) if is_label else None

    for group in groups(tar, 0, None, asked.image_member, take, passed):
        if file_id(group.key) in seen:
            raise SourceError(
                f"{about.place}: the members of sample {file_id(group.key)!r} do not stand together, or it comes "
                "twice; sort the tar by name, and give each sample a name of its own"
            )
        seen.add(file_id(group.key))
        within = [m for m, suffix in zip(group.members, group.suffixes) if suffix.lower().endswith((*TAR_SUFFIXES,))]
        is_tar = len(group.members) == len(within) == 1
        nests = is_tar if nests is None else nests
        if within and not group.images and not nests:
            raise SourceError(
                f"{about.place}: holds the tar {file_id(within[0].info.name)} among other files, where its images "
                "would not be seen; unpack it, or pack it for itself"
            )
        if nests:
            inner = _inner(about, group, is_tar)
            with tar_within(tar, group.members[0].source) as opened_inner:
                yield from _scan(opened_inner, inner, asked, tars, passed)
            continue
        last = (posixpath.splitext(member.info.name)[1].lower() for member in group.members)
        passed.update(
            f"{suffix} images in tars, which come out as they are" for suffix in last if suffix in UNREAD_SUFFIXES
        )
        names = [group.members[number].info.name for number in group.images]
        if len(set(names)) < len(names):
            name = next(name for name in names if names.count(name) > 1)
            raise SourceError(f"{about.place}: holds two images of the name {file_id(name)}; rename one of them")
        about.links.extend(Link(m.at, m.source, m.info.size) for m in group.members if m.source != m.at)
        rows = max(1, len(group.images))
        about.offsets.extend([group.members[0].at] * rows)
        about.sizes.extend([sum(member.info.size for member in group.members), *[0] * (rows - 1)])
        found = (label for suffix, label in zip(group.suffixes, group.taken) if suffix == ".cls")
        yield about.name, group, next(found, None)
    if not nests:
        tars.append(about)


def _inner(outer: _Tar, group: Group, is_tar: bool) -> _Tar:
    """The tar that is a member of a tar. Raises SourceError where it cannot be read there."""
    member = group.members[0]
    name = file_id(member.info.name)
    if not is_tar:
        raise SourceError(f"{outer.place}: holds tars and also {name}, which is none; pack that for itself")
    if outer.outer is not None or outer.codec != PLAIN or not group.suffixes[0].lower().endswith(".tar"):
        raise SourceError(
            f"{outer.place}: holds the tar {name}, which can be read there only where both are not compressed, and no "
            f"tar holds them; unpack it by `tar -xf {file_id(outer.place.name)}`, then name the folder"
        )
    return _Tar(outer.place, outer.codec, member.info.name, member.source)


def _mark(group: Group) -> str:
    """What tells a sample from another: names and sizes, and which are images where that is not plain."""
    mark = " ".join(f"{member.info.name}:{member.info.size}" for member in group.members)
    images = [group.suffixes[number] for number in group.images]
    plain = len(images) < 2 and all(suffix.count(".") == 1 for suffix in images)
    return mark if plain else f"{mark} images {' '.join(images)}"
