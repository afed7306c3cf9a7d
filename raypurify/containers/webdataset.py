"""WebDataset tars as a container: consecutive members of one key are a sample, and each of its images is a row.

The key of a member is its path up to the first dot of the file name, the rest is its extension: ``a/7.jpg`` and
``a/7.cls`` are the sample ``a/7``, whose id has the tar's path in front and whose label ``.cls`` holds.
:mod:`raypurify.containers.tar_names` says which members are images; where a sample has several, their ids end in their
extensions. A hard link is the file that it points to; symbolic links, devices, hidden names and READMEs are passed over
and counted. A tar may be compressed. A tar of nothing but tars is read as if these were files in a folder of its name,
which without any ``.cls`` are the classes. Every shard becomes a tar, named after it.
"""

import hashlib
import posixpath
import tarfile
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby, pairwise

from raypurify.containers.contract import Container, Listing, Plan, Portion
from raypurify.containers.packed import cut_rows, numbered_files, pick_rows, unique_keys
from raypurify.containers.rows import file_id
from raypurify.containers.tar_members import Link, Member, read_member
from raypurify.containers.tar_names import path_within, stem_of, suffix_of
from raypurify.containers.tar_rows import MAX_LABEL_BYTES, TarCut, label_number, read, write
from raypurify.containers.tar_samples import Group, codec_in, groups, opened, tar_within
from raypurify.containers.tar_stream import PLAIN
from raypurify.errors import SourceError
from raypurify.storage import Place

_SUFFIXES = frozenset((".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst"))
_NO_END = 1 << 62


@dataclass(frozen=True)
class _Tar:
    """One tar as planned: by row where its sample begins, and the hard links. The cut is of all of it."""

    place: Place
    path: str
    whole: TarCut
    offsets: array = field(default_factory=partial(array, "q"))
    links: list[Link] = field(default_factory=list)


def plan(listing: Listing) -> Plan:
    """Rows, classes and shards of tars (``Container.plan``). Every header is read, and the ``.cls`` members.

    Raises SourceError naming a tar that is damaged, or holds a key twice or apart.
    """
    digest, labels, named = hashlib.sha256(), set(), listing.image_member
    tars: list[_Tar] = []
    passed: Counter[str] = Counter()
    images = 0
    for path in listing.stamps:
        for inner, group, label in _scan(listing.root / path, path, named, tars, passed):
            digest.update(f"{inner}\0{group.key}\0{_mark(group)}\n".encode("utf-8", "surrogateescape"))
            images += len(group.images)
            if label is not None:
                labels.add(label)
    rows = sum(len(tar.offsets) for tar in tars)
    if not rows:
        raise SourceError(f"{listing.root}: the tars hold no samples")
    if named is not None:
        digest.update(f"images in {named}\n".encode())
        if not images:
            raise SourceError(
                f"{listing.root}: no sample has a member of the extension {named.replace(',', ' or ')}, which "
                "--image-member names; it is all that stands behind the first dot of the file name"
            )
    _check_apart(listing.root, tars)
    classes = tuple(map(str, range(max(labels) + 1))) if labels else None
    if not labels and all(tar.whole.outer is not None for tar in tars):
        classes = tuple(sorted({_class_of(tar) for tar in tars}))
        tars = [replace(tar, whole=replace(tar.whole, label=classes.index(_class_of(tar)))) for tar in tars]
    return Plan(rows, classes, digest.hexdigest(), partial(_portions, tars), dict(passed))


WEBDATASET = Container(
    kind="tar",
    noun="tar",
    suffixes=_SUFFIXES,
    plan=plan,
    read=read,
    pick=pick_rows,
    write=write,
    written=partial(numbered_files, suffix=".tar"),
    has_members=True,
    keeps_failed=True,
)


def _portions(tars: Sequence[_Tar], shard_rows: int) -> Iterator[Portion]:
    for key, tar in zip(unique_keys([f"{tar.whole.prefix}.tar" for tar in tars]), tars):
        begins = tar.offsets
        # The images of a sample stay together.
        starts = {bisect_left(begins, begins[start]) for start, _ in cut_rows([len(begins)], shard_rows)}
        for number, (start, stop) in enumerate(pairwise(sorted(starts | {len(begins)}))):
            offset, end = begins[start], begins[stop] if stop < len(begins) else _NO_END
            links = tuple(tar.links[bisect_left(tar.links, (offset,)) : bisect_left(tar.links, (end,))])
            counts = tuple(len([*rows]) for _, rows in groupby(begins[start:stop]))
            if len(counts) == stop - start:
                counts = ()
            cut = replace(tar.whole, span=stop - start, offset=offset, links=links, counts=counts)
            yield Portion(f"{key}-{number:05d}", tar.place, stop - start, cut)


def _scan(
    place: Place, path: str, named: str | None, tars: list[_Tar], passed: Counter[str]
) -> Iterator[tuple[str, Group, int | None]]:
    """The path of its tar, what it is made of, and the label, of every sample of a file. Adds the tars to ``tars``, and
    what is passed over to ``passed``."""
    stamp = place.stamp
    with opened(place) as tar:
        whole = TarCut(
            stamp=stamp,
            folder=posixpath.dirname(path),
            span=0,
            offset=0,
            prefix=stem_of(path),
            codec=codec_in(tar),
            image_member=named,
        )
        yield from _scan_tar(tar, _Tar(place, path, whole), tars, passed)


def _scan_tar(
    tar: tarfile.TarFile, about: _Tar, tars: list[_Tar], passed: Counter[str]
) -> Iterator[tuple[str, Group, int | None]]:
    seen: set[str] = set()
    nests: bool | None = None

    def take(member: Member) -> int | None:
        is_label = suffix_of(member.info.name)[1] == ".cls" and member.info.size <= MAX_LABEL_BYTES
        return label_number(read_member(tar, member)) if is_label else None

    for group in groups(tar, 0, None, about.whole.image_member, take, passed):
        if group.key in seen:
            raise SourceError(
                f"{about.place}: the members of sample {file_id(group.key)!r} do not stand together, or it comes "
                "twice; sort the tar by name, and give each sample a name of its own"
            )
        seen.add(group.key)
        is_tar = len(group.members) == 1 and group.suffixes[0].lower() in _SUFFIXES
        nests = is_tar if nests is None else nests
        if nests:
            inner = _inner(about, group, is_tar)
            with tar_within(tar, group.members[0].source) as opened_inner:
                yield from _scan_tar(opened_inner, inner, tars, passed)
            continue
        names = [group.members[number].info.name for number in group.images]
        if len(set(names)) < len(names):
            name = next(name for name in names if names.count(name) > 1)
            raise SourceError(f"{about.place}: holds two images of the name {file_id(name)}; rename one of them")
        about.links.extend(Link(m.at, m.source, m.info.size) for m in group.members if m.source != m.at)
        about.offsets.extend([group.members[0].at] * max(1, len(group.images)))
        labels = (label for suffix, label in zip(group.suffixes, group.taken) if suffix == ".cls")
        yield about.path, group, next(labels, None)
    if not nests:
        tars.append(about)


def _inner(outer: _Tar, group: Group, is_tar: bool) -> _Tar:
    """The tar that is a member of a tar. Raises SourceError where it cannot be read there."""
    member = group.members[0]
    name = file_id(member.info.name)
    if not is_tar:
        raise SourceError(f"{outer.place}: holds tars and also {name}, which is none; pack that for itself")
    cut = outer.whole
    if cut.outer is not None or cut.codec != PLAIN or group.suffixes[0].lower() != ".tar":
        raise SourceError(
            f"{outer.place}: holds the tar {name}, which can be read there only where both are not compressed, and no "
            f"tar holds them; `tar -xf {file_id(outer.place.name)}` unpacks it, then name the folder"
        )
    prefix = stem_of(path_within(cut.prefix, member.info.name))
    whole = replace(cut, folder=posixpath.dirname(prefix), prefix=prefix, outer=member.source)
    return _Tar(outer.place, path_within(outer.path, member.info.name), whole)


def _check_apart(root: Place, tars: Sequence[_Tar]) -> None:
    """Raises SourceError where two tars would give the same ids."""
    paths: dict[str, str] = {}
    for tar in tars:
        if other := paths.get(tar.whole.prefix):
            raise SourceError(
                f"{root}: the samples of {file_id(other)} and {file_id(tar.path)} would have the same names; "
                "leave one of them out, or rename it"
            )
        paths[tar.whole.prefix] = tar.path


def _class_of(tar: _Tar) -> str:
    return file_id(posixpath.basename(tar.whole.prefix))


def _mark(group: Group) -> str:
    """What tells a sample from another: names and sizes, and which are images where that is not plain."""
    mark = " ".join(f"{member.info.name}:{member.info.size}" for member in group.members)
    images = [group.suffixes[number] for number in group.images]
    plain = len(images) < 2 and all(suffix.count(".") == 1 for suffix in images)
    return mark if plain else f"{mark} images {' '.join(images)}"
