"""Which output a new job may have, before anything is written there."""

from collections.abc import Iterable

from raypurify.containers.ledger import STATE
from raypurify.serve.jobs.refused import Refused
from raypurify.serve.jobs.request import JobRequest
from raypurify.serve.jobs.roots import Admitted
from raypurify.serve.jobs.tally import stamp_of_job
from raypurify.storage import resolve


def check_apart(output: Admitted, others: Iterable[str]) -> None:
    """Raises Refused 409 where an output holds one of the ``others``, or lies in one of them, or in one that was made
    without this endpoint."""
    path = output.uri.partition("?")[0] if "://" in output.uri else output.uri
    for other in others:
        if path != other and (path.startswith(other + "/") or other.startswith(path + "/")):
            raise Refused(409, "output-taken", "the output holds that of another job, or lies in it; choose another")
    place = resolve(output.uri)
    for _ in output.parts[:-1]:
        place = place.parent
        if stamp_of_job(place):
            raise Refused(409, "output-taken", "the output lies in that of another job; choose another")


def to_replace(request: JobRequest) -> tuple[int, int] | None:
    """The stamp of the older job's record that is to be overwritten, None where there is none, or it is not asked for.

    It tells whether that was done already when a job is gone on with. Raises Refused 409 where the output is none of a
    job: ``raypurify purify`` writes beside files of others, a caller may not.
    """
    if not request.options.overwrite:
        return None
    out = resolve(request.output)
    older = stamp_of_job(out)
    if older is None and {*out.names()} - {STATE}:
        raise Refused(409, "not-an-output", "the output holds files of others, which no job overwrites; choose another")
    return older
