"""What callers see of a job."""

from datetime import datetime, timezone
from typing import Literal

from pydantic import BaseModel, Field

from raypurify.serve.jobs.registry import Images, Record
from raypurify.serve.jobs.request import JobOptions

State = Literal["queued", "running", "cancelling", "cancelled", "done", "failed"]


class JobView(BaseModel):
    """A job as its caller sees it."""

    id: str
    state: State
    input: list[str]
    output: str
    options: JobOptions
    created: datetime
    ended: datetime | None = None
    total: int | None = Field(None, description="images of the input; null until the job has looked at it")
    done: int = Field(0, description="images that are done, well or not, in whole committed shards")
    purified: int = 0
    errors: dict[str, int] = Field({}, description="images that could not be purified, by reason")
    images_per_s: float | None = Field(None, description="in this run; null until it can be told")
    eta_s: float | None = Field(None, description="seconds until all is done at that rate")
    message: str | None = Field(None, description="why it waits, what it said last, or why it failed")


class JobList(BaseModel):
    """The jobs of a caller, the newest first."""

    jobs: list[JobView]


def view_of(
    record: Record, images: Images, at_work: bool, said: str, rate: float | None = None, eta_s: float | None = None
) -> JobView:
    """What the caller sees of a job, which is ``at_work`` where its process lives and ``said`` something last."""
    ended, asked = record.ended, record.asked
    images = ended.images if ended else images
    state: State = "running" if at_work else "queued"
    if ended:
        state, said = ended.state, ended.message
    elif record.cancel:
        state = "cancelling"
    return JobView(
        id=record.id,
        state=state,
        input=asked.input,
        output=asked.output,
        options=asked.options,
        created=_when(record.created),
        ended=_when(ended.at) if ended else None,
        total=images.total,
        done=images.purified + sum(images.failed.values()),
        purified=images.purified,
        errors=images.failed,
        images_per_s=rate,
        eta_s=eta_s,
        message=said or None,
    )


def _when(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)
