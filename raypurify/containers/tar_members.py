"""The members of a tar, one header after the other, and the proof that its end is its end.

Python's ``tarfile`` parses a header here, and no more: where one is damaged or missing it says that the tar is over,
and whatever follows would be lost in silence. Here a tar ends where zeros begin that reach to the end of the file, and
every other end is an error that names its byte. Tars put one behind the other are refused, too: a second tar after the
zeros of the first cannot be told from members that zeros were written over.
"""

import copy
import io
import re
import tarfile
from collections.abc import Iterator, Sequence
from typing import IO, BinaryIO, NamedTuple

from raypurify.containers.rows import file_id

_BLOCK = tarfile.BLOCKSIZE
# Tars are padded to 10 KiB, seldom to more; a file that was made at its full size and not filled yet is.
_MAX_PADDING = 64 << 10
# Headers of text for the header that follows: PAX records, and the long names of GNU.
_PAX, _LONG_NAMES = (b"x", b"g", b"X"), (b"L", b"K")
# They are held in memory.
_MAX_TEXT = 16 << 20
_LABELS, _DEVICES = (b"V", b"D"), (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
_RECORD = re.compile(rb"(\d{1,9}) [^=]+=")


class TarDamage(Exception):
    """A tar that cannot be read to its end; says at which byte, and what to do."""


class Link(NamedTuple):
    """A hard link: where its header stands, where that of the member stands whose bytes are meant, and their number."""

    at: int
    target: int
    size: int


class Member(NamedTuple):
    """A member: where its first header stands, what it says, and where the header stands whose bytes are the
    member's, which is another's for a hard link."""

    at: int
    info: tarfile.TarInfo
    source: int


def members(tar: tarfile.TarFile, at: int, links: Sequence[Link] | None = None) -> Iterator[Member]:
    """Every member from the header at byte ``at`` to the end of the tar.

    Hard links come as the files they are, by the names of the members before them; who begins in the middle gives the
    ``links`` that stand there instead, without their names.
    """
    known: dict[str, tuple[int, int]] = {}
    given = {link.at: link for link in links or ()}
    while (info := _header(tar, at)) is not None:
        following, source = tar.offset, at
        if info.islnk():
            # One that is not given lies behind what is read.
            _, source, size = given.get(at) or Link(at, *(_target(info, known) if links is None else (at, 0)))
            info = _as_file(info, size)
        elif info.type == tarfile.GNUTYPE_SPARSE or info.type not in (*tarfile.SUPPORTED_TYPES, *_LABELS):
            # The standard wants what is not known to be read as a file.
            info = _as_file(info, info.size)
        if links is None and info.isreg():
            known[_plain(info.name)] = source, info.size
        yield Member(at, info, source)
        at = following


def open_member(tar: tarfile.TarFile, source: int) -> tuple[str, IO[bytes]]:
    """The member whose header stands at byte ``source``: its name, and itself as a file to read and seek in."""
    info = _header(tar, source)
    file = tar.extractfile(info) if info is not None else None
    return info.name if info else "", file or io.BytesIO()


def read_member(tar: tarfile.TarFile, member: Member) -> bytes:
    """The bytes of a member that is a file."""
    file = tar.extractfile(member.info) if member.source == member.at else open_member(tar, member.source)[1]
    data = file.read() if file is not None else b""
    if len(data) != member.info.size:
        raise TarDamage(
            f"is cut off within {file_id(member.info.name)}, which begins at byte {member.source:,}; get it again"
        )
    return data


def passed_over(info: tarfile.TarInfo) -> str | None:
    """Why a member is no file to read, in words to count by; None for files, folders and the label of a tar."""
    if info.issym():
        return "links in tars"
    return "devices and pipes in tars" if info.type in _DEVICES else None


def check_start(raw: BinaryIO) -> None:
    """Raises TarError where what stands before the header at the place of ``raw`` is damaged, or too much to hold."""
    at = raw.tell()
    _check_extensions(raw, raw.read(_BLOCK))
    raw.seek(at)


def _as_file(info: tarfile.TarInfo, size: int) -> tarfile.TarInfo:
    info = copy.copy(info)
    info.type, info.linkname, info.size = tarfile.REGTYPE, "", size
    return info


def _plain(name: str) -> str:
    return name.removeprefix("./")


def _target(info: tarfile.TarInfo, known: dict[str, tuple[int, int]]) -> tuple[int, int]:
    found = known.get(_plain(info.linkname))
    if found is None:
        raise TarDamage(
            f"{file_id(info.name)} is a hard link to {file_id(info.linkname)}, which is no file in the tar before it; "
            "pack it again with `tar --hard-dereference`"
        )
    return found


def _header(tar: tarfile.TarFile, at: int) -> tarfile.TarInfo | None:
    """The header at byte ``at``, with those of names that precede it; None where the tar ends there."""
    raw: BinaryIO = tar.fileobj  # type: ignore[assignment]  # what it was opened with
    raw.seek(at)
    block = raw.read(_BLOCK)
    if len(block) < _BLOCK:
        _refuse_end(raw, at, len(block))
    if not block.strip(b"\0"):
        _check_end(raw, at)
        return None
    try:
        _check_extensions(raw, block)
        raw.seek(at)
        info = tarfile.TarInfo.fromtarfile(tar)
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise _damage(at, f"what should be a header there is none ({error})") from error
    if info.type in (b"M", b"N"):
        raise _damage(at, "a part of a tar of several volumes; extract them together and pack them as one tar")
    if tar.offset < info.offset_data:
        raise _damage(at, "a member of less than no bytes")
    return info


def _check_extensions(raw: BinaryIO, block: bytes) -> None:
    """Raises TarError where the PAX records before a header are damaged, of which tarfile would take what it finds."""
    while (kind := block[156:157]) in (*_PAX, *_LONG_NAMES):
        size = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape").size
        if not 0 <= size <= _MAX_TEXT:
            raise tarfile.HeaderError(f"{size:,} bytes of names and facts")
        padded = -(-size // _BLOCK) * _BLOCK
        if kind in _PAX:
            _check_records(raw.read(padded)[:size], size)
        else:
            raw.seek(padded, 1)
        block = raw.read(_BLOCK)


def _check_records(text: bytes, size: int) -> None:
    at, end = 0, len(text.rstrip(b"\0"))
    while at < end and len(text) == size:
        head = _RECORD.match(text, at)
        stop = at + int(head[1]) if head else 0
        if not head or stop < head.end() or text[stop - 1 : stop] != b"\n":
            break
        at = stop
    if at < end or len(text) < size:
        raise tarfile.HeaderError("damaged PAX records")


def _refuse_end(raw: BinaryIO, at: int, held: int) -> None:
    size = raw.seek(0, 2) or raw.tell()
    if size == at:
        raise TarDamage(
            f"ends at byte {size:,} without the zeros that end a tar, as one does that was cut between two members; "
            "get it again, or where it is whole `head -c 1024 /dev/zero >> FILE` completes it"
        )
    raise TarDamage(f"is cut off at byte {size:,} within a {'header' if held else 'member'}; get it again")


def _check_end(raw: BinaryIO, at: int) -> None:
    """Raises TarDamage where after the zero block at byte ``at`` anything but zeros follows."""
    end = at + _BLOCK
    while chunk := raw.read(1 << 16):
        if rest := chunk.lstrip(b"\0"):
            _refuse_more(raw, at, end + len(chunk) - len(rest))
        end += len(chunk)
        if end - at > _MAX_PADDING:
            raise TarDamage(
                f"holds zeros from byte {at:,} on, more than any tar has at its end: it may be a download that was not "
                f"completed; get it again, or where it is whole `truncate -s {at + 2 * _BLOCK} FILE` shortens it"
            )


def _refuse_more(raw: BinaryIO, at: int, found: int) -> None:
    start = found // _BLOCK * _BLOCK
    if start < at + 2 * _BLOCK:
        raise _damage(at, "zeros stand there, and more members or bytes follow")
    raw.seek(start)
    try:
        tarfile.TarInfo.frombuf(raw.read(_BLOCK), "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        raise TarDamage(
            f"bytes that are no tar follow the end of the tar from byte {start:,} on; get it again, or where they are "
            f"no part of it `truncate -s {start} FILE` removes them"
        ) from None
    raise TarDamage(
        f"zeros stand from byte {at:,} on, and another tar begins at byte {start:,}; get it again, or where two tars "
        f"were put together `head -c {start} FILE` and `tail -c +{start + 1} FILE` part them"
    )


def _damage(at: int, what: str) -> TarDamage:
    return TarDamage(f"is damaged at byte {at:,}: {what}; get it again")
