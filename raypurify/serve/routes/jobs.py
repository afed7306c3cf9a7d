"""``/v1/jobs``: data sets purified on the cluster, without a caller who waits."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request, Response

from raypurify.serve.deadline import Deadline
from raypurify.serve.foreign import json_body, own_page
from raypurify.serve.front import NOBODY, Front, caller, front
from raypurify.serve.gate import retry_after
from raypurify.serve.http import Refusal, read_body
from raypurify.serve.jobs.refused import Refused
from raypurify.serve.jobs.request import MAX_BYTES, request_schema
from raypurify.serve.jobs.view import JobList, JobView
from raypurify.serve.openapi import TIMEOUT, refusal

# A body of a job is small, and its caller has sent it at once.
_BODY_S, _ANSWER_S, _AGAIN_S = 10, 30, 5
_REFUSALS: dict[int | str, dict[str, Any]] = {
    401: refusal("no token, or a wrong one"),
    403: refusal("the endpoint takes no jobs, a path lies outside of its job roots, or a page of another site asks"),
    503: refusal("nobody sees to jobs at the moment; Retry-After says when to ask again"),
}
_UNKNOWN: dict[int | str, dict[str, Any]] = {404: refusal("no job of this caller has the id")}
_POSTED: dict[int | str, dict[str, Any]] = {
    400: refusal("`X-Raypurify-Timeout` is no number of seconds"),
    408: refusal("the body did not come in time"),
    409: refusal("the output belongs to another job, or its job runs with other options"),
    413: refusal("the body is too large"),
    415: refusal("the body is not of the type application/json"),
    422: refusal("a field that is missing, unknown or out of its bounds, or a path that is not plainly written"),
    429: refusal("too many jobs of this caller, or too many requests; Retry-After says when to ask again"),
}
_Id = Annotated[str, Path(description="id of a job")]
_Front = Annotated[Front, Depends(front)]

router = APIRouter(prefix="/v1/jobs", dependencies=[Depends(caller)])


@router.post(
    "",
    status_code=202,
    dependencies=[Depends(own_page), Depends(json_body)],
    responses={**_REFUSALS, **_POSTED},
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": request_schema()}}},
        "parameters": [TIMEOUT],
    },
)
async def post(request: Request, front: _Front) -> JobView:
    """Purify a data set of the job roots. The same output posted again goes on where it was."""
    caller, deadline = request.state.caller, Deadline(request, min(_BODY_S, front.settings.timeout_s))
    caller.charge()
    with front.gate.reading() as hold:
        body = await deadline.reading(read_body(request, MAX_BYTES, hold))
    return await _asked(front, "post", request, body, caller.limits.jobs, caller.job_pixels)


@router.get("", responses=_REFUSALS)
async def jobs(request: Request, front: _Front) -> JobList:
    """The jobs of this caller, the newest first."""
    return JobList(jobs=await _asked(front, "jobs", request))


@router.get("/{id}", responses={**_REFUSALS, **_UNKNOWN})
async def job(id: _Id, request: Request, front: _Front) -> JobView:
    """How far a job is, and what failed."""
    return await _asked(front, "job", request, id)


@router.delete(
    "/{id}",
    status_code=202,
    dependencies=[Depends(own_page)],
    responses={200: {"model": JobView, "description": "a job that had ended, forgotten"}, **_REFUSALS, **_UNKNOWN},
)
async def cancel(id: _Id, request: Request, front: _Front, response: Response) -> JobView:
    """Cancel a job, whose output keeps what is done; forget one that has ended."""
    view = await _asked(front, "cancel", request, id)
    if view.ended:
        response.status_code = 200
    return view


async def _asked(front: Front, method: str, request: Request, *arguments: Any) -> Any:
    """What the supervisor answers to this caller."""
    if front.jobs is None:
        raise Refusal(403, "no-job-roots", "this endpoint takes no jobs; start it with --job-root (job_roots)")
    asked = getattr(front.jobs, method).remote(request.state.caller.owner, *arguments)
    try:
        answer = await asyncio.wait_for(asked, _ANSWER_S)
    except NOBODY as error:
        message = "nobody sees to jobs at the moment; those that were posted go on; ask again in a moment"
        raise Refusal(503, "unavailable", message, retry_after(_AGAIN_S)) from error
    if isinstance(answer, Refused):
        headers = retry_after(answer.retry_s) if answer.retry_s else None
        raise Refusal(answer.status, answer.error, str(answer), headers)
    return answer
