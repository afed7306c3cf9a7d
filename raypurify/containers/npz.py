"""The members of a ``.npz`` file, which is a zip of array files: looked into once, with limits, and read in part."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, BinaryIO

from raypurify.errors import RaypurifyError, SourceError
from raypurify.files import DAMAGED_ZIP

_MAX_MEMBERS, _MAX_UNPACKED = 10_000, 64 << 30
_LOCAL_HEADER = 30
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@contextmanager
def opened_zip(file: BinaryIO, shown: str) -> Iterator[zipfile.ZipFile]:
    """A zip to read from. What is damaged in it is a SourceError, then or later in the block, as are limits."""
    try:
        with zipfile.ZipFile(file) as held:
            members = held.infolist()
            unpacked = sum(member.file_size for member in members)
            if len(members) > _MAX_MEMBERS or unpacked > _MAX_UNPACKED:
                raise SourceError(
                    f"{shown}: unpacks to {len(members):,} arrays of {unpacked:,} bytes, more than is read of a zip; "
                    "unpack it, which gives .npy files"
                )
            if len({member.filename for member in members}) < len(members):
                raise SourceError(f"{shown}: holds two arrays of one name; write it again with numpy.savez")
            if any(member.flag_bits & 1 or member.compress_type not in _METHODS for member in members):
                raise SourceError(f"{shown}: is encrypted or packed as NumPy does not; write it again with numpy.savez")
            yield held
    except RaypurifyError:
        raise
    except DAMAGED_ZIP as error:
        raise SourceError(
            f"{shown}: is cut short or damaged: {error or type(error).__name__}; get or write it again"
        ) from error


def start_of(file: BinaryIO, member: zipfile.ZipInfo, shown: str) -> int | None:
    """At which byte of the zip the bytes of a member stand as they are; None where they are compressed."""
    if member.compress_type != zipfile.ZIP_STORED:
        return None
    file.seek(member.header_offset)
    header = file.read(_LOCAL_HEADER)
    if header[:4] != b"PK\3\4":
        raise SourceError(f"{shown}: is damaged at byte {member.header_offset:,}; get or write it again")
    return member.header_offset + _LOCAL_HEADER + sum(int.from_bytes(header[at : at + 2], "little") for at in (26, 28))


def read_within(file: BinaryIO, name: str, start: int, count: int, shown: str) -> bytes:
    """Bytes of a compressed member, for which all before them is unpacked."""
    with opened_zip(file, shown) as held, member_of(held, name, shown) as member:
        member.seek(start)
        return member.read(count)


@contextmanager
def member_of(held: zipfile.ZipFile, name: str, shown: str) -> Iterator[IO[bytes]]:
    """A member to read from. Raises SourceError where it is gone."""
    try:
        member = held.open(name)
    except KeyError as error:
        raise SourceError(f"{shown}: holds no {name} any more; run again when it is whole") from error
    with member:
        yield member
