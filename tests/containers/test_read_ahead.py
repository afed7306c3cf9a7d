"""Reading here and there in a file of a store: the right bytes, and not many more than are asked for."""

import io
import random
import tarfile

import pytest

from raypurify.containers.read_ahead import FAR, LEAST, ReadAhead
from raypurify.containers.source import open_source
from raypurify.storage import Place


class Asked(io.BytesIO):
    """A file that counts requests and bytes."""

    def __init__(self, data):
        super().__init__(data)
        self.requests = self.bytes = 0

    def read(self, size=-1):
        data = super().read(size)
        self.requests, self.bytes = self.requests + 1, self.bytes + len(data)
        return data


def test_the_bytes_are_those_of_the_file():
    draw, data = random.Random(0), random.Random(1).randbytes(3 << 20)
    file, plain = ReadAhead(Asked(data)), io.BytesIO(data)
    for _ in range(2000):
        if draw.random() < 0.6:
            whence = draw.choice((0, 1, 2))
            offset = draw.choice((draw.randrange(len(data) + 100), draw.randrange(2000)))
            offset = -offset if whence == 2 else offset
            assert file.seek(offset, whence) == plain.seek(offset, whence)
        size = draw.choice((0, 1, 512, 5000, draw.randrange(300_000), -1 if draw.random() < 0.01 else 7))
        assert file.read(size) == plain.read(size)
        assert file.tell() == plain.tell()


def tar_of(sizes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for number, size in enumerate(sizes):
            member = tarfile.TarInfo(f"{number:04d}.jpg")
            member.size = size
            tar.addfile(member, io.BytesIO(bytes(size)))
    return out.getvalue()


@pytest.mark.parametrize(
    ("size", "count", "requests", "share"),
    [(700, 4000, 12, 1.01), (110_000, 200, 14, 1.01), (2 * FAR, 16, 18, 0.07), (8 * FAR, 8, 10, 0.03)],
)
def test_far_members_are_skipped_and_near_ones_read_together(store, monkeypatch, size, count, requests, share):
    """Through a real store: the bytes that it is asked for, of those of the tar."""
    data, asked, real = tar_of([size] * count), [], Place.open

    def counted(place):
        file = real(place)
        asked.append(Asked(b""))
        read = file.read

        class Counting(io.RawIOBase):
            seek, tell, close = file.seek, file.tell, file.close

            def read(self, size=-1):
                found = read(size)
                asked[-1].requests += 1
                asked[-1].bytes += len(found)
                return found

        return Counting()

    store.put(f"ahead/{size}.tar", data)
    monkeypatch.setattr(Place, "open", counted)
    assert open_source(store.uri(f"ahead/{size}.tar")).rows == count
    (one,) = asked
    assert one.requests <= requests
    assert one.bytes <= share * len(data) + LEAST
