"""One image on its way from a source to a sink, and the shard of images that one task works on."""

from dataclasses import dataclass

from raypurify.errors import ImageError
from raypurify.storage import Place, Stamp

MAX_FILE_BYTES = 256 << 20
IMAGE_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib")
    + (".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm", ".pnm")
)


@dataclass(frozen=True)
class Row:
    """One image of a source: ``id`` unique and stable, ``row`` its dense position in the whole source, ``data`` the
    bytes as stored, ``label`` an index into the source's classes or None; ``error`` where the bytes cannot be had."""

    id: str
    row: int
    data: bytes | None
    label: int | None = None
    error: ImageError | None = None


@dataclass(frozen=True)
class Shard:
    """What one task reads: ``paths`` below ``place`` (a folder), or the rows from ``start`` of ``place`` (a file), of
    which ``picked`` says which, counted from ``start`` and ascending, where it is not all. ``folder`` is where that
    file lies below the input, and its output below the output. ``stamps`` are those of the paths, or of the file, when
    the job was planned."""

    index: int
    name: str
    kind: str
    place: Place
    first_row: int
    rows: int
    paths: tuple[str, ...] = ()
    start: int = 0
    key: str = ""
    folder: str = ""
    image_column: str = "image"
    classes: tuple[str, ...] | None = None
    picked: tuple[int, ...] | None = None
    stamps: tuple[Stamp, ...] = ()

    @property
    def span(self) -> int:
        """Rows of the file from ``start`` to behind the last one."""
        return self.picked[-1] + 1 if self.picked else self.rows


def file_id(path: str) -> str:
    """A file name as an id: as it is, percent-encoded where it is not UTF-8."""
    if path.isascii():
        return path
    raw = path.encode("utf-8", "surrogateescape")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        text = path.replace("%", "%25")
        return "".join(f"%{ord(c) - 0xDC00:02X}" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in text)
