"""The files of arrays in an output, each joined of the pieces that its shards wrote, once all of them are committed.

``OUT/_raypurify/arrays.json`` names the files of the output, and is there before the first of them.

A joined file is there whole or not at all, and only then the pieces go that are in it; where one is there, and pieces
of it are again, because shards were done again, they replace their rows. So joining can be killed anywhere and begun
again, two who do it at once write the same bytes, and what comes meanwhile stays for the next time.
"""

import json
import math
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from io import BytesIO
from typing import IO, BinaryIO, NamedTuple

import numpy as np
from numpy.lib import format as npy_format

from raypurify.containers.array_rows import LABELS, PIECES, PIXELS, Member
from raypurify.containers.contract import Sink
from raypurify.containers.ledger import STATE
from raypurify.containers.npz import member_of, opened_zip
from raypurify.containers.rows import Shard, split_suffix
from raypurify.errors import ImageError, SinkError, SourceError
from raypurify.storage import Place, Stamp

RECORD = f"{STATE}/arrays.json"
_CHUNK = 4 << 20
# What numpy.savez says of all its members.
_TIME = (1980, 1, 1, 0, 0, 0)


class InputFile(NamedTuple):
    """A file of the input: its path, where it is, its stamp as planned, and its arrays."""

    path: str
    place: Place
    stamp: Stamp
    members: tuple[Member, ...]


def records(out: Place) -> list[str]:
    """The files of arrays that an output has, or will have (``Container.written``)."""
    file = out / RECORD
    try:
        names = json.loads(file.read()) if file.kind == "file" else []
    except ValueError:
        return []
    if not isinstance(names, list):
        return []
    return [name for name in names if isinstance(name, str) and name.lower().endswith((".npy", ".npz"))]


def outputs(shards: Sequence[Shard], files: Sequence[InputFile], suffix: str) -> list[str]:
    """The names of the files of an output (``Container.outputs``)."""
    return [file.path for file in _outputs(shards, files)]


class Joined(NamedTuple):
    """An array of the output: the name of its member, its type and shape, and its pieces, each with its rows; where
    there are none, it is the member of the input as it is."""

    name: str
    dtype: str = ""
    shape: tuple[int, ...] = ()
    pieces: tuple[tuple[str, int], ...] = ()


class OutputFile(NamedTuple):
    """A file of the output at ``path``, of arrays in their order, and the file of the input that it is made of."""

    path: str
    source: InputFile
    arrays: tuple[Joined, ...]


def joining(shards: Sequence[Shard], files: Sequence[InputFile]) -> Callable[[Sink], None]:
    """What makes the files of an output of the pieces of its shards (``Container.joining``)."""
    return partial(_join, _outputs(shards, files))


def _outputs(shards: Sequence[Shard], files: Sequence[InputFile]) -> tuple[OutputFile, ...]:
    held: dict[tuple[str, str], list[Shard]] = {}
    for shard in shards:
        held.setdefault((shard.cut.path, shard.cut.name), []).append(shard)
    whole = all(
        sum(shard.rows for shard in held.get((file.path, member.name), ())) == member.array.shape[0]
        for file in files
        for member in file.members
        if member.array.is_images
    )
    found = []
    for file in files:
        arrays: list[Joined] = []
        beside: list[Joined] = []
        for member in file.members:
            mine = held.get((file.path, member.name), ())
            if mine:
                arrays.append(_joined(member.name, mine, PIXELS, member.array.dtype, member.array.shape[1:]))
            elif whole:
                arrays.append(Joined(member.name))
            if mine and not whole and all(shard.cut.labels is not None for shard in mine):
                # Those of all rows would not fit; they may be of several arrays.
                name = _labelled(member.name or file.path)
                labels = _joined(name if member.name else "", mine, LABELS, "<i8", ())
                (arrays if member.name else beside).append(labels)
        if arrays:
            found.append(OutputFile(file.path, file, tuple(arrays)))
        found += [OutputFile(_labelled(file.path), file, (labels,)) for labels in beside]
    return tuple(found)


def _labelled(name: str) -> str:
    return f"{split_suffix(name)[0]}_labels.npy"


def _joined(name: str, shards: Sequence[Shard], suffix: str, dtype: str, shape: tuple[int, ...]) -> Joined:
    rows = sum(shard.rows for shard in shards)
    return Joined(name, dtype, (rows, *shape), tuple((f"{shard.name}{suffix}", shard.rows) for shard in shards))


def _join(files: Sequence[OutputFile], sink: Sink) -> None:
    """Join every file of an output. Raises SinkError where neither it nor all of its pieces are there."""
    sink.put(RECORD, json.dumps([file.path for file in files], indent=1).encode())
    for file in files:
        for attempt in range(3):
            try:
                _join_file(sink, file)
                break
            except FileNotFoundError:
                # Another process has joined it meanwhile, and removed the pieces.
                if attempt == 2:
                    raise


def _join_file(sink: Sink, file: OutputFile) -> None:
    place, folder = sink.place / file.path, sink.place / PIECES
    there, done = {*folder.names()}, place.kind == "file"
    names = [name for joined in file.arrays for name, _ in joined.pieces]
    # What is only copied is copied again: a file of that name may be the user's.
    if done and names and not there.intersection(names):
        return
    lost = next((name for name in names if name not in there), None)
    if lost and not done:
        raise SinkError(f"{place}: is gone, and so is {lost}, of which it was made; purify again with --overwrite")
    with ExitStack() as stack:
        old = stack.enter_context(place.open()) if lost else None
        read: dict[str, Stamp] = {}
        fill = partial(_fill, folder=folder, there=there, read=read)
        try:
            target = stack.enter_context(sink.putting(file.path))
            if file.path.lower().endswith(".npz"):
                _join_zip(target, file, old, str(place), fill)
            elif file.arrays[0].pieces:
                fill(target, file.arrays[0], old)
            else:
                shutil.copyfileobj(stack.enter_context(_input(file.source)), target, _CHUNK)
            stack.close()
        except ImageError as error:
            raise SinkError(str(error)) from error
    for name, stamp in read.items():
        # Another process may have removed it, or done its shard again.
        with suppress(FileNotFoundError):
            if (folder / name).stamp == stamp:
                (folder / name).delete()


def _join_zip(target: BinaryIO, file: OutputFile, old: BinaryIO | None, shown: str, fill: Callable) -> None:
    """A zip of arrays, each packed as in the input."""
    with ExitStack() as stack:
        source = stack.enter_context(opened_zip(stack.enter_context(_input(file.source)), str(file.source.place)))
        before = stack.enter_context(opened_zip(old, shown)) if old else None
        packed = stack.enter_context(zipfile.ZipFile(target, "w"))
        methods = {info.filename: info.compress_type for info in source.infolist()}
        for joined in file.arrays:
            info = zipfile.ZipInfo(joined.name, _TIME)
            info.compress_type = methods.get(joined.name, zipfile.ZIP_STORED)
            with ExitStack() as parts:
                into = parts.enter_context(packed.open(info, "w", force_zip64=True))
                if joined.pieces:
                    fill(into, joined, parts.enter_context(member_of(before, joined.name, shown)) if before else None)
                else:
                    member = parts.enter_context(member_of(source, joined.name, str(file.source.place)))
                    shutil.copyfileobj(member, into, _CHUNK)


def _fill(
    into: IO[bytes], joined: Joined, old: IO[bytes] | None, folder: Place, there: set[str], read: dict[str, Stamp]
) -> None:
    """An array of its pieces, and of its ``old`` rows where one is not there; ``read`` takes up which, as they are."""
    header = BytesIO()
    npy_format.write_array_header_1_0(header, {"descr": joined.dtype, "fortran_order": False, "shape": joined.shape})
    into.write(header.getvalue())
    if old:
        old.read(len(header.getvalue()))
    size = np.dtype(joined.dtype).itemsize * math.prod(joined.shape[1:])
    for name, rows in joined.pieces:
        data = old.read(rows * size) if old else b""
        if name in there:
            read[name] = (folder / name).stamp
            data = (folder / name).read()
        if len(data) != rows * size:
            raise SinkError(
                f"{folder / name}: holds {len(data):,} of {rows * size:,} bytes; purify again with --overwrite"
            )
        into.write(data)


@contextmanager
def _input(file: InputFile) -> Iterator[BinaryIO]:
    """A file of the input, as it was planned. Raises SourceError where it is gone, or another one."""
    try:
        opened, stamp = file.place.open(), file.place.stamp
    except OSError as error:
        raise SourceError(
            f"{file.place}: cannot be opened: {error.strerror or error}; run again when it is mended"
        ) from error
    with opened:
        if stamp != file.stamp:
            raise SourceError(f"{file.place}: changed since the job was planned; run again when it is whole")
        yield opened
