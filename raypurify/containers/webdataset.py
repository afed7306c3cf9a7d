"""WebDataset tars as a container: consecutive members of one key are a sample, and each of its images is a row.

The key of a member is its path up to the first dot of the file name, the rest is its extension: ``a/7.jpg`` and
``a/7.cls`` are the sample ``a/7``, whose id has the tar's path in front and whose label ``.cls`` holds.
:mod:`raypurify.containers.tar_names` says which members are images; where a sample has several, their ids end in their
extensions. A hard link is the file that it points to; symbolic links, devices, hidden names and READMEs are passed over
and counted. A tar may be compressed. A tar of nothing but tars is read as if these were files in a folder of its name,
which without any ``.cls`` are the classes. Every shard becomes a tar, named after it.
"""

import posixpath
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby, pairwise

import numpy as np

from raypurify.containers.contract import Container, Listing, Plan, Portion
from raypurify.containers.cuts import bytes_before, cut_bytes, cut_rows
from raypurify.containers.look import Look
from raypurify.containers.packed import digest_of, numbered_files, passed_in, pick_rows, shard_files, unique_keys
from raypurify.containers.rows import file_id
from raypurify.containers.tar_members import Link
from raypurify.containers.tar_names import path_within, stem_of
from raypurify.containers.tar_rows import TarCut, read, write
from raypurify.containers.tar_scan import TAR_SUFFIXES, look
from raypurify.errors import SourceError
from raypurify.storage import Place

_NO_END = 1 << 62


@dataclass(frozen=True)
class _Tar:
    """One tar as planned: by row where its sample begins and its bytes, and its hard links, (n, 3) as ``Link``, by
    where they stand. The cut is of all of it."""

    place: Place
    path: str
    whole: TarCut
    offsets: np.ndarray
    sizes: np.ndarray
    links: np.ndarray


def plan(listing: Listing, looks: Mapping[str, Look]) -> Plan:
    """Rows, classes and shards of tars (``Container.plan``). Raises SourceError where two would give the same ids."""
    tars = [tar for path, one in looks.items() for tar in _tars(listing, path, one)]
    rows = sum(one.rows for one in looks.values())
    if not rows:
        raise SourceError(f"{listing.root}: the tars hold no samples; check the path")
    named = listing.asked.image_member
    if named is not None and not any(one.facts["images"] for one in looks.values()):
        raise SourceError(
            f"{listing.root}: no sample has a member of the extension {named.replace(',', ' or ')}, which "
            "--image-member names; give all that stands behind the first dot of the file name"
        )
    _check_apart(listing.root, tars)
    labels = max(one.facts["classes"] for one in looks.values())
    classes = tuple(map(str, range(labels))) if labels else None
    if not labels and all(tar.whole.outer is not None for tar in tars):
        classes = tuple(sorted({_class_of(tar) for tar in tars}))
        tars = [replace(tar, whole=replace(tar.whole, label=classes.index(_class_of(tar)))) for tar in tars]
    parts = {path: one.digest for path, one in looks.items()}
    mark = "" if named is None else f"images in {named}\n"
    return Plan(
        rows=rows,
        classes=classes,
        digest=digest_of(parts, mark),
        portions=partial(_portions, listing, tars),
        passed=passed_in(looks),
        parts=parts,
        mark=mark,
    )


WEBDATASET = Container(
    kind="tar",
    noun="tar",
    suffixes=TAR_SUFFIXES,
    look=look,
    plan=plan,
    read=read,
    pick=pick_rows,
    write=write,
    outputs=partial(shard_files, own=".tar"),
    written=partial(numbered_files, suffix=".tar"),
    has_members=True,
    keeps_failed=True,
    grows=lambda looks: not any(outer is not None for one in looks.values() for _, outer, *_ in one.facts["tars"]),
)


def _tars(listing: Listing, path: str, one: Look) -> Iterator[_Tar]:
    """The tars of a file: those that it holds, or itself."""
    stem = stem_of(path)
    offsets, sizes = (one.arrays[name].to_numpy() for name in ("offsets", "sizes"))
    links = one.arrays["links"].to_numpy().reshape(-1, 3) if "links" in one.arrays else np.empty((0, 3), np.int64)
    for name, outer, rows, linked in one.facts["tars"]:
        name = name.encode("latin-1").decode("utf-8", "surrogateescape")
        prefix = stem if outer is None else stem_of(path_within(stem, name))
        whole = TarCut(
            stamp=one.stamp,
            folder=posixpath.dirname(prefix),
            span=0,
            offset=0,
            prefix=prefix,
            codec=one.facts["codec"],
            outer=outer,
            image_member=listing.asked.image_member,
        )
        tar_path = path if outer is None else path_within(path, name)
        yield _Tar(listing.root / path, tar_path, whole, offsets[:rows], sizes[:rows], links[:linked])
        offsets, sizes, links = offsets[rows:], sizes[rows:], links[linked:]


def _portions(listing: Listing, tars: Sequence[_Tar], shard_rows: int) -> Iterator[Portion]:
    held = {place: list(same) for place, same in groupby(tars, key=lambda tar: tar.place)}
    named: list[tuple[str, str, _Tar | None]] = []
    for file, path in enumerate(listing.stamps):
        # A file that cannot be used keeps its name, and whatever it turns out to hold, others keep their numbers.
        inside = held.get(listing.root / path, ())
        for number, tar in enumerate(inside):
            within = "" if tar.whole.outer is None else f"-{number:05d}"
            named.append((f"{file:05d}{within}", f"{tar.whole.prefix}.tar", tar))
        if not inside:
            named.append((f"{file:05d}", f"{stem_of(path)}.tar", None))
    numbers, paths, planned = zip(*named)
    for key, tar in zip(unique_keys(paths, numbers=numbers), planned):
        if tar is None:
            continue
        begins = tar.offsets.tolist()
        # The images of a sample stay together.
        before = bytes_before(tar.sizes.tolist())
        cuts = cut_bytes(cut_rows([len(begins)], shard_rows), before)
        starts = {bisect_left(begins, begins[start]) for start, _ in cuts} | {len(begins)}
        starts |= _within_bytes(begins, before, sorted(starts))
        for number, (start, stop) in enumerate(pairwise(sorted(starts))):
            offset, end = begins[start], begins[stop] if stop < len(begins) else _NO_END
            low, high = np.searchsorted(tar.links[:, 0], (offset, end))
            links = tuple(Link(*link) for link in tar.links[low:high].tolist())
            counts = tuple(len([*rows]) for _, rows in groupby(begins[start:stop]))
            if len(counts) == stop - start:
                counts = ()
            cut = replace(tar.whole, span=stop - start, offset=offset, links=links, counts=counts)
            yield Portion(f"{key}-{number:05d}", tar.place, stop - start, cut)


def _within_bytes(begins: Sequence[int], before: Callable[[int], float], starts: Sequence[int]) -> set[int]:
    """Where shards begin that are cut once more, between samples: what came back to a sample may have made them too
    large."""
    samples = [*(row for row, begin in enumerate(begins) if not row or begin != begins[row - 1]), len(begins)]
    edges = [bisect_left(samples, start) for start in starts]
    cuts = ((first, last - first) for first, last in pairwise(edges))
    return {samples[first] for first, _ in cut_bytes(cuts, lambda sample: before(samples[sample]))}


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
