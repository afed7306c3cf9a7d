"""``GET /v2/health``: whether the endpoint lives, and whether it takes in images."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends
from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError

from raypurify.serve.front import READY_S, Front, front
from raypurify.serve.http import Refusal
from raypurify.serve.openapi import refusal

router = APIRouter(prefix="/v2/health")


@router.head("/live", include_in_schema=False)
@router.get("/live")
async def live() -> dict:
    """200 while the endpoint runs."""
    return {"live": True}


@router.head("/ready", include_in_schema=False)
@router.get("/ready", responses={503: refusal("no purifier replica answers, or the endpoint is ending")})
async def ready(front: Annotated[Front, Depends(front)]) -> dict:
    """200 while a purifier replica answers and new images are taken in."""
    if front.gate.ending:
        raise Refusal(503, "ending", "the endpoint is shutting down")
    try:
        digest = await asyncio.wait_for(front.purifier.digest.remote(), READY_S)
    except (TimeoutError, asyncio.TimeoutError, RayError, BackPressureError) as error:
        raise Refusal(503, "not-ready", "no purifier replica answers yet") from error
    return {"ready": True, "bundle": digest}
