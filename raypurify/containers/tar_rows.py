"""The rows of a tar's shard: read sample by sample, and written into a tar of their own."""

import copy
import io
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, BinaryIO

from raypurify.containers.contract import Images, Outputs, Sink
from raypurify.containers.packed import FileCut, check_stamp, put_file
from raypurify.containers.rows import MAX_FILE_BYTES, Row, Shard, counted, file_id
from raypurify.containers.tar_members import Link, Member, read_member
from raypurify.containers.tar_names import is_image, is_image_file, output_suffixes, suffix_of
from raypurify.containers.tar_samples import groups, opened
from raypurify.containers.tar_stream import PLAIN
from raypurify.errors import ImageError, SinkError, SourceError

# Sidecars are held in memory with the images of their shard.
_MAX_SIDECAR_BYTES = 64 << 20
MAX_LABEL_BYTES = 32


@dataclass(frozen=True)
class Sample:
    """One sample: its key, its members with their bytes (None: too large to read), which of them are images, and which
    of these are rows that were asked for, counted from 0; a sample without an image is one row all the same."""

    key: str
    members: tuple[tuple[tarfile.TarInfo, bytes | None], ...]
    images: tuple[int, ...]
    asked: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class TarCut(FileCut):
    """Samples of a tar from the one whose first header stands at byte ``offset``.

    ``prefix``, the tar's path without its suffix, begins their ids; ``links`` are the hard links among their members,
    ``counts`` the rows of each sample, empty where it is one. ``codec`` says how the file is compressed, ``outer``
    where in it the tar's own header stands if it is a tar in a tar. ``image_member`` names the extensions of images,
    and ``label`` is that of every row without one.
    """

    offset: int
    prefix: str
    links: tuple[Link, ...] = ()
    counts: tuple[int, ...] = ()
    codec: str = PLAIN
    outer: int | None = None
    image_member: str | None = None
    label: int | None = None


def read(shard: Shard) -> Iterator[Row]:
    """The rows of a tar's shard (``Container.read``)."""
    row = shard.first_row
    for sample in read_samples(shard):
        label = _label(sample, shard.cut.label) if shard.classes else None
        for asked in sample.asked:
            try:
                data, error = _image(shard, sample, asked), None
            except ImageError as refused:
                data, error = None, refused
            yield Row(_id(shard, sample, asked), row, data, label, error)
            row += 1


def write(sink: Sink, shard: Shard, images: Images) -> Outputs:
    """One tar of the shard's samples, every sidecar in its place (``Container.write``).

    A sample of several images keeps those that are good, and is left out, where failed rows are, without any.
    """
    return put_file(sink, shard, ".tar", partial(_write_tar, sink, shard, images))


def _write_tar(sink: Sink, shard: Shard, images: Images, file: BinaryIO) -> None:
    left = iter(images)
    options: dict[str, Any] = {"format": tarfile.PAX_FORMAT, "encoding": "utf-8", "errors": "surrogateescape"}
    with tarfile.open(fileobj=file, mode="w", **options) as tar:
        for sample in read_samples(shard):
            results = list(islice(left, len(sample.asked)))
            if [_id(shard, sample, asked) for asked in sample.asked] != [row.id for row, _ in results]:
                raise SinkError(f"{shard.place}: changed while shard {shard.name} was worked on; run again")
            good = {
                sample.images[asked]: image
                for asked, (_, image) in zip(sample.asked, results)
                if not isinstance(image, ImageError)
            }
            if good or sink.keep_failed:
                _add_sample(tar, sample, good, sink.suffix)


def read_samples(shard: Shard) -> Iterator[Sample]:
    """The samples of a shard of which rows are asked for, in their order. Raises SourceError where the tar has changed
    since it was planned."""
    return counted(shard, _read_samples(shard), lambda sample: len(sample.asked))


def _read_samples(shard: Shard) -> Iterator[Sample]:
    check_stamp(shard)
    cut: TarCut = shard.cut
    asked = _asked(cut)
    number, last = 0, max(asked)

    def take(member: Member) -> bytes | None:
        return _bytes(tar, member, shard) if number in asked else None

    with opened(shard.place, cut.codec, cut.outer, cut.offset) as tar:
        for group in groups(tar, cut.offset, cut.links, cut.image_member, take):
            if number in asked:
                if max(1, len(group.images)) != (cut.counts[number] if cut.counts else 1):
                    raise SourceError(f"{shard.place}: changed since the job was planned; run again")
                held = tuple((member.info, data) for member, data in zip(group.members, group.taken))
                yield Sample(group.key, held, group.images, asked[number])
            if number == last:
                return
            number += 1


def _asked(cut: TarCut) -> dict[int, tuple[int, ...]]:
    """By the number of each sample that is asked for, which of its rows are."""
    if not cut.counts:
        return dict.fromkeys(cut.numbers, (0,))
    wanted, first, found = set(cut.numbers), 0, {}
    for number, count in enumerate(cut.counts):
        if rows := tuple(row for row in range(count) if first + row in wanted):
            found[number] = rows
        first += count
    return found


def _id(shard: Shard, sample: Sample, asked: int) -> str:
    suffix = suffix_of(sample.members[sample.images[asked]][0].name)[1] if len(sample.images) > 1 else ""
    return file_id(f"{shard.cut.prefix}/{sample.key}{suffix}")


def _image(shard: Shard, sample: Sample, asked: int) -> bytes:
    """The bytes of one image of a sample. Raises ImageError where there are none."""
    if not sample.images:
        masks = [suffix for info, _ in sample.members if is_image_file(suffix := suffix_of(info.name)[1])]
        hint = f"; {masks[0]} is not taken for one, --image-member {masks[0][1:]} says it is" if masks else ""
        raise ImageError("empty", f"{shard.place}: sample {file_id(sample.key)} holds no image{hint}")
    member, data = sample.members[sample.images[asked]]
    where = f"{shard.place}: {file_id(member.name)}"
    if data is None:
        raise ImageError("too-large", f"{where} holds {member.size:,} bytes, the limit is {MAX_FILE_BYTES:,}")
    if not data:
        raise ImageError("empty", f"{where} holds no bytes")
    return data


def _add_sample(tar: tarfile.TarFile, sample: Sample, good: Mapping[int, bytes], suffix: str) -> None:
    suffixes = output_suffixes([suffix_of(info.name)[1] for info, _ in sample.members], sample.images, suffix)
    for number, (member, held) in enumerate(sample.members):
        entry = copy.copy(member)
        if number in suffixes:
            if number not in good:
                # Neither an image that failed nor one that was not asked for goes into the output as it is.
                continue
            entry.name, held = sample.key + suffixes[number], good[number]
        assert held is not None  # only an image may be too large to read
        entry.size, entry.pax_headers = len(held), {}
        tar.addfile(entry, io.BytesIO(held))


def _bytes(tar: tarfile.TarFile, member: Member, shard: Shard) -> bytes | None:
    name, size = member.info.name, member.info.size
    image = is_image(suffix_of(name)[1], shard.cut.image_member)
    if size > MAX_FILE_BYTES and image:
        return None
    if size > _MAX_SIDECAR_BYTES and not image:
        raise SourceError(
            f"{shard.place}: {file_id(name)} holds {size:,} bytes; a sidecar must not hold more than 64 MiB"
        )
    return read_member(tar, member)


def _label(sample: Sample, otherwise: int | None) -> int | None:
    for member, data in sample.members:
        if suffix_of(member.name)[1] == ".cls" and data is not None and len(data) <= MAX_LABEL_BYTES:
            return label_number(data)
    return otherwise


def label_number(data: bytes) -> int | None:
    """The label that a ``.cls`` holds, None where it is no number."""
    text = data.strip()
    return int(text) if text.isdigit() and len(text) < 6 else None
