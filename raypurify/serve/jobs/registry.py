"""The jobs that were posted, as files below the roots: what was asked, by whom, and how it ended.

    ROOT/.raypurify-jobs/<id>.json

An output belongs to one job, whose id follows from it. Records are read again after a restart, so they are checked like
what callers send: whoever can write below a root must not reach more by writing there.
"""

import hashlib
import logging
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raypurify.serve.jobs.refused import Refused
from raypurify.serve.jobs.request import JobRequest
from raypurify.serve.jobs.roots import Admitted, admit, registry_of
from raypurify.storage import Place, overlapped

_LARGEST = 1 << 20
_LOG = logging.getLogger("ray.serve")


class Images(BaseModel):
    """Images of a job by what became of them, as far as whole shards of them are committed."""

    model_config = ConfigDict(frozen=True)

    total: int | None = None
    purified: int = 0
    failed: dict[str, int] = {}


class Ended(BaseModel):
    """How a job ended, when, what was said at the end, and what had become of its images."""

    model_config = ConfigDict(frozen=True)

    state: Literal["done", "failed", "cancelled"]
    at: float
    message: str = ""
    images: Images = Images()


class Record(BaseModel):
    """A job as it is recorded; ``replaces`` is the stamp of the older job's record that it is to overwrite."""

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1
    id: str
    owner: str = Field(max_length=64)
    request: JobRequest
    created: float
    cancel: bool = False
    replaces: tuple[int, int] | None = None
    ended: Ended | None = None

    @property
    def asked(self) -> JobRequest:
        """The request as its caller wrote it, without the options of the roots."""
        inputs = [*map(plain, self.request.input)]
        return self.request.model_copy(update={"input": inputs, "output": plain(self.request.output)})


def job_id(output: str) -> str:
    """The id of the job of an output.

    >>> job_id("/data/out")
    '10c1083c2123fa95'
    """
    return hashlib.sha256(f"job {output}".encode()).hexdigest()[:16]


class Registry:
    """The records of all jobs below some roots."""

    def __init__(self, roots: Sequence[str]):
        self.roots = tuple(roots)

    def admitted(self, request: JobRequest) -> tuple[JobRequest, Admitted]:
        """The request with its paths as jobs get them, and its output. Raises Refused."""
        output = admit(request.output, self.roots, output=True)
        inputs = [admit(path, self.roots).uri for path in request.input]
        return request.model_copy(update={"input": inputs, "output": output.uri}), output

    def load(self) -> dict[str, Record]:
        """Every record by its id. Raises OSError or ValueError where a root is out of reach, or a file there."""
        found: dict[str, Record] = {}
        for root in self.roots:
            folder = registry_of(root)
            files = [folder / name for name in folder.names() if name.endswith(".json")]
            for file, record in zip(files, overlapped(self._read, files)):
                if record and file.name == f"{record.id}.json":
                    found[record.id] = record
        return found

    def write(self, record: Record) -> None:
        """Record a job, whole or not at all. Raises OSError."""
        file = self._file(record)
        file.write(record.model_dump_json(indent=1).encode(), file.parent / "tmp")

    def remove(self, record: Record) -> None:
        """Forget a job; its output stays. Raises OSError."""
        self._file(record).delete()

    def _file(self, record: Record) -> Place:
        return registry_of(admit(record.asked.output, self.roots).root) / f"{record.id}.json"

    def _read(self, file: Place) -> Record | None:
        try:
            text = file.read(_LARGEST)
        except (FileNotFoundError, IsADirectoryError):
            return None
        except OSError as error:
            # A job that is passed over for that would be lost, and its output free for others.
            raise OSError(f"{file}: {error}; if that stays, mend or remove the file") from error
        try:
            record = Record.model_validate_json(text)
            request, output = self.admitted(record.asked)
            if record.id != job_id(output.uri):
                raise Refused(422, "bad-record", "its id is not that of its output")
            return record.model_copy(update={"request": request})
        except (ValidationError, Refused) as error:
            _LOG.warning("%s: no record of a job that may run here (%s)", file, " ".join(str(error).split())[:200])
            return None


def plain(uri: str) -> str:
    """A path or URI as a caller writes it: without the options of its root.

    >>> plain("s3://bucket/jobs/out?region=eu"), plain("/data/out")
    ('s3://bucket/jobs/out', '/data/out')
    """
    return uri.partition("?")[0] if "://" in uri else uri
