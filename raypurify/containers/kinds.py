"""Which of an input's files are its images: those of one container, the others being about them or set aside."""

import posixpath
from collections import Counter
from collections.abc import Callable
from functools import partial

from raypurify.containers.arrays import ARRAYS, may_hold_images
from raypurify.containers.contract import Container
from raypurify.containers.image_column import is_image
from raypurify.containers.listing import PARQUET_NAME, Inputs
from raypurify.containers.parquet import open_file
from raypurify.containers.passed_over import passed_over_text, suffix_reason
from raypurify.containers.registry import CONTAINERS, KINDS, container_of
from raypurify.errors import SourceError
from raypurify.storage import Place, overlapped

_MAGIC = b"PAR1"
_PARQUET = CONTAINERS["parquet"]
# As features may be, of which each image has a file.
_MOST_OPENED = 1000


def choose(inputs: Inputs, kind: str | None, where: str) -> tuple[Container, list[str], Counter[str]]:
    """The container of an input, its files in order, and what is ignored, the other files among it.

    It is the one that ``kind`` (a key of ``KINDS``) names; else the only one of which there are files, where Parquet
    files and arrays without images do not count beside others. Raises :class:`SourceError` where that is none, or not
    one.
    """
    held, ignored = _sorted_out(inputs)
    if kind is not None:
        for paths in (held.pop(other) for other in [*held] if other != KINDS[kind].kind):
            ignored += Counter(f"{_suffix(path)} files (--kind {kind})" for path in paths)
    else:
        for other, may_hold in _ABOUT_OTHERS.items():
            if len(held) > 1 and other in held and not _hold_images(inputs, held[other], may_hold):
                ignored += Counter(f"{_suffix(path)} files without images" for path in held.pop(other))
    if not held:
        raise SourceError(f"{where}: {_nothing(kind, ignored)}")
    if len(held) > 1:
        one, other = (f"{CONTAINERS[name].noun}s ({paths[0]})" for name, paths in [*held.items()][:2])
        options = " or ".join(f"--kind {option}" for option, container in KINDS.items() if container.kind in held)
        raise SourceError(
            f"{where}: holds both {one} and {other}; say which to read: {options} (kind in Python and in a grid)"
        )
    ((name, paths),) = held.items()
    return CONTAINERS[name], paths, ignored


def _sorted_out(inputs: Inputs) -> tuple[dict[str, list[str]], Counter[str]]:
    """The files of each container of which there are some, in order, and what is ignored with those of none."""
    paths = sorted(inputs.files)
    containers = [container_of(path) for path in paths]
    unclear = [path for path, known in zip(paths, containers) if known is None and PARQUET_NAME.search(path)]
    tables = dict(zip(unclear, overlapped(partial(_is_parquet, inputs.root), unclear)))
    held: dict[str, list[str]] = {kind: [] for kind in CONTAINERS}
    ignored = inputs.ignored.copy()
    for path, known in zip(paths, containers):
        container = _PARQUET if tables.get(path) else known
        if container:
            held[container.kind].append(path)
        elif path in tables:
            ignored[f"{_suffix(path)} files that are no Parquet, though it is in their names (unpack them)"] += 1
        else:
            ignored[suffix_reason(path)] += 1
    return {kind: paths for kind, paths in held.items() if paths}, ignored


def _suffix(path: str) -> str:
    return posixpath.splitext(path)[1].lower()


def _is_parquet(root: Place, path: str) -> bool:
    try:
        return (root / path).read(len(_MAGIC)) == _MAGIC
    except OSError as error:
        raise SourceError(f"{root / path}: cannot be read: {error.strerror or error}; check its permissions") from error


def _hold_images(inputs: Inputs, paths: list[str], may_hold: Callable[[Place], bool]) -> bool:
    """Whether one of the files may hold images; of very many only the largest are opened."""
    largest = sorted(paths, key=lambda path: -inputs.files[path][0])[:_MOST_OPENED]
    return any(overlapped(may_hold, [inputs.root / path for path in largest]))


def _table_may_hold_images(place: Place) -> bool:
    try:
        with open_file(place) as file:
            return any(is_image(field.type) for field in file.schema_arrow)
    except SourceError:
        return True


# Files that may be about the images of others, and whether one holds images itself.
_ABOUT_OTHERS: dict[str, Callable[[Place], bool]] = {
    _PARQUET.kind: _table_may_hold_images,
    ARRAYS.kind: may_hold_images,
}


def _nothing(kind: str | None, ignored: Counter[str]) -> str:
    """What is said where there is no file to read."""
    wanted = CONTAINERS.values() if kind is None else [KINDS[kind]]
    *nouns, last = (container.noun for container in wanted)
    known = " ".join(suffix for container in wanted for suffix in sorted(container.suffixes))
    text = f"{', '.join(nouns)} or {last}" if nouns else last
    return f"holds no {text} ({passed_over_text(ignored) or 'nothing is there'}); check the path; known: {known}"
