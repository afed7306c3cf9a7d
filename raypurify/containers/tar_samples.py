"""The samples of a tar: members of one key that follow each other, wherever the tar lies.

It may be a file, or one that is compressed, or a member of another tar, which is read where it stands there. What
belongs to no sample is counted by its reason: links, devices, hidden names, READMEs.
"""

import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, BinaryIO, NamedTuple, cast

from raypurify.containers.read_ahead import ReadAhead
from raypurify.containers.rows import file_id
from raypurify.containers.tar_members import Link, Member, TarDamage, check_start, members, open_member, passed_over
from raypurify.containers.tar_names import is_hidden, is_image, is_note, suffix_of
from raypurify.containers.tar_stream import PLAIN, StreamDamage, Unpacked, codec_of
from raypurify.errors import RaypurifyError, SourceError
from raypurify.storage import Place


class Group(NamedTuple):
    """The members of a sample in their order, their extensions, what was taken of each, and which of them are its
    images."""

    key: str
    members: list[Member]
    suffixes: list[str]
    taken: list[Any]
    images: tuple[int, ...]


def groups(
    tar: tarfile.TarFile,
    offset: int,
    links: Sequence[Link] | None,
    named: str | None,
    take: Callable[[Member], Any],
    passed: Counter[str] | None = None,
) -> Iterator[Group]:
    """Every sample from the header at byte ``offset`` on; ``links`` as in :func:`members`, ``named`` as in
    :func:`is_image`. ``take`` is called at each member before the tar is read on, and after the sample before it was
    given. What is passed over is counted in ``passed``.
    """
    passed = Counter() if passed is None else passed
    group: Group | None = None
    for member in members(tar, offset, links):
        name = member.info.name
        if (reason := _reason(member)) or not member.info.isreg():
            passed.update(filter(None, (reason,)))
            continue
        key, suffix = suffix_of(name)
        if group is not None and group.key != key:
            yield from _finished(group, named, passed)
            group = None
        group = group or Group(key, [], [], [], ())
        group.members.append(member)
        group.suffixes.append(suffix)
        group.taken.append(take(member))
    if group is not None:
        yield from _finished(group, named, passed)


@contextmanager
def opened(
    place: Place, codec: str | None = None, outer: int | None = None, offset: int = 0
) -> Iterator[tarfile.TarFile]:
    """The tar in a file, or the one in a member of it whose header stands at byte ``outer``, to be read from byte
    ``offset`` on. How the file is compressed is found out where ``codec`` is not known.

    Raises SourceError, in the block too, where the tar cannot be read.
    """
    try:
        with _reader(place) as raw:
            codec = codec or codec_of(raw)
            file = raw if codec == PLAIN else cast(BinaryIO, Unpacked(raw, partial(_reader, place), codec))
            try:
                with _tar_from(file, offset if outer is None else outer) as tar:
                    if outer is None:
                        yield tar
                    else:
                        with tar_within(tar, outer, offset) as inner:
                            yield inner
            finally:
                file.close()
    except (TarDamage, StreamDamage) as error:
        raise SourceError(f"{place}: {error}") from error
    except RaypurifyError:
        raise
    except (OSError, tarfile.TarError, EOFError) as error:
        raise SourceError(f"{place}: is no readable tar: {error}; get it again") from error


@contextmanager
def tar_within(tar: tarfile.TarFile, at: int, offset: int = 0) -> Iterator[tarfile.TarFile]:
    """The tar that the member is whose header stands at byte ``at``. Raises TarDamage, in the block too, where it
    cannot be read."""
    name, file = open_member(tar, at)
    try:
        with _tar_from(cast(BinaryIO, file), offset) as inner:
            yield inner
    except TarDamage as error:
        raise TarDamage(f"{file_id(name)} in it {error}") from error
    except tarfile.TarError as error:
        raise TarDamage(f"{file_id(name)} in it is no readable tar: {error}; get the file again") from error


def codec_in(tar: tarfile.TarFile) -> str:
    """How the file of an open tar is compressed."""
    return getattr(tar.fileobj, "codec", PLAIN)


def _reader(place: Place) -> BinaryIO:
    file = place.open()
    return file if place.remote is None else cast(BinaryIO, ReadAhead(file))


def _tar_from(raw: BinaryIO, offset: int) -> tarfile.TarFile:
    raw.seek(offset)
    check_start(raw)
    return tarfile.open(fileobj=raw, mode="r:", errors="surrogateescape", encoding="utf-8")


def _reason(member: Member) -> str | None:
    hidden = member.info.isreg() and is_hidden(member.info.name)
    return "hidden names in tars" if hidden else passed_over(member.info)


def _finished(group: Group, named: str | None, passed: Counter[str]) -> Iterator[Group]:
    images = tuple(number for number, suffix in enumerate(group.suffixes) if is_image(suffix, named))
    if not images and is_note(group.key, group.suffixes):
        passed["READMEs and the like in tars"] += len(group.members)
    else:
        yield group._replace(images=images)
