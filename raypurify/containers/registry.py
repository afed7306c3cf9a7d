"""The containers there are: one file and one entry each."""

import posixpath

from raypurify.containers.contract import Container
from raypurify.containers.folder import FOLDER
from raypurify.containers.parquet import PARQUET
from raypurify.containers.webdataset import WEBDATASET

# By what users call them (--kind); messages name them in this order.
KINDS: dict[str, Container] = {"images": FOLDER, "parquet": PARQUET, "tars": WEBDATASET}
# By the kind that job.json records.
CONTAINERS: dict[str, Container] = {container.kind: container for container in KINDS.values()}

_BY_SUFFIX = {suffix: container for container in CONTAINERS.values() for suffix in container.suffixes}


def container_of(path: str) -> Container | None:
    """The container that a file belongs to by its suffix, which may have two parts, None where it is of none.

    >>> container_of("a/1.JPG").kind, container_of("a.tar.GZ").kind, container_of("notes.gz")
    ('folder', 'tar', None)
    """
    stem, last = posixpath.splitext(path.lower())
    return _BY_SUFFIX.get(posixpath.splitext(stem)[1] + last) or _BY_SUFFIX.get(last)
