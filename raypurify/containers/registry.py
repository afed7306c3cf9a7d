"""The containers there are: one file and one entry each."""

from raypurify.containers.arrays import ARRAYS
from raypurify.containers.contract import Container
from raypurify.containers.folder import FOLDER
from raypurify.containers.parquet import PARQUET
from raypurify.containers.rows import split_suffix
from raypurify.containers.webdataset import WEBDATASET

# By what users call them (--kind); messages name them in this order.
KINDS: dict[str, Container] = {"images": FOLDER, "parquet": PARQUET, "tars": WEBDATASET, "arrays": ARRAYS}
# By the kind that job.json records.
CONTAINERS: dict[str, Container] = {container.kind: container for container in KINDS.values()}

_BY_SUFFIX = {suffix: container for container in CONTAINERS.values() for suffix in container.suffixes}
# The last parts of suffixes of two.
_SECOND = {suffix[suffix.rfind(".") :] for suffix in _BY_SUFFIX if suffix.count(".") > 1}


def container_of(path: str) -> Container | None:
    """The container that a file belongs to by its suffix, which may have two parts, None where it is of none.

    >>> container_of("a/1.JPG").kind, container_of("a.tar.GZ").kind, container_of("notes.gz")
    ('folder', 'tar', None)
    """
    stem, last = split_suffix(path)
    last = last.lower()
    if last in _SECOND and (both := _BY_SUFFIX.get(split_suffix(stem)[1].lower() + last)):
        return both
    return _BY_SUFFIX.get(last)
