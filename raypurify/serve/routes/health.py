"""``GET /v2/health``: whether the endpoint lives, and whether it takes in images."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends

from raypurify.serve.front import NOBODY, READY_S, Front, front
from raypurify.serve.http import Refusal
from raypurify.serve.openapi_v2 import LIVE, READY

router = APIRouter(prefix="/v2/health")


@router.get("/live", responses=LIVE)
async def live() -> dict:
    """200 while the endpoint runs."""
    return {"live": True}


@router.get("/ready", responses=READY)
async def ready(front: Annotated[Front, Depends(front)]) -> dict:
    """200 while a purifier replica answers and new images are taken in."""
    return {"ready": True, "bundle": await digest(front)}


async def digest(front: Front) -> str:
    """The digest of the bundle that is served. Raises Refusal 503 where no replica answers or the endpoint ends."""
    if front.gate.ending:
        raise Refusal(503, "ending", "the endpoint is shutting down")
    try:
        return await asyncio.wait_for(front.purifier.digest.remote(), READY_S)
    except NOBODY as error:
        raise Refusal(503, "not-ready", "no purifier replica answers yet") from error
