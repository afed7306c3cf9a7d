"""The containers there are: one file and one entry each."""

import posixpath

from raypurify.containers.contract import Container
from raypurify.containers.folder import FOLDER
from raypurify.containers.parquet import PARQUET
from raypurify.containers.webdataset import WEBDATASET

# By the kind that job.json records; messages name them in this order.
CONTAINERS: dict[str, Container] = {container.kind: container for container in (FOLDER, PARQUET, WEBDATASET)}

_BY_SUFFIX = {suffix: container for container in CONTAINERS.values() for suffix in container.suffixes}


def container_of(path: str) -> Container | None:
    """The container that a file belongs to by its suffix, None where it is of none.

    >>> container_of("a/1.JPG").kind, container_of("notes.txt")
    ('folder', None)
    """
    return _BY_SUFFIX.get(posixpath.splitext(path)[1].lower())
