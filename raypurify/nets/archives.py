"""Archives of torch (zip) taken apart and put together again, so that what is read is what was looked at."""

import io
import zipfile

from raypurify.errors import SourceError
from raypurify.files import DAMAGED_ZIP
from raypurify.storage import Where, resolve

# torch compresses nothing but code: what lies compressed may hold at most so much.
MOST_UNPACKED = 64 << 20


def unpacked(path: Where) -> dict[str, bytes]:
    """The records of an archive by their names, in its order. Raises SourceError for a file that is none."""
    try:
        with zipfile.ZipFile(io.BytesIO(resolve(path).read())) as archive:
            packed = [one for one in archive.infolist() if one.compress_type != zipfile.ZIP_STORED]
            if sum(one.file_size for one in packed) <= MOST_UNPACKED:
                return {one.filename: archive.read(one) for one in archive.infolist()}
    except FileNotFoundError:
        raise SourceError(f"{path}: no such file of a network; check the path") from None
    except (OSError, RuntimeError, *DAMAGED_ZIP) as error:
        raise SourceError(f"{path}: not a file of torch ({error}); save the network again") from error
    raise SourceError(f"{path}: holds more than {MOST_UNPACKED >> 20} MB compressed; save it by torch")


def repacked(records: dict[str, bytes]) -> io.BytesIO:
    """An archive of these records and nothing else."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    buffer.seek(0)
    return buffer
