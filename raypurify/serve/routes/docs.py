"""``GET /docs``: the API on one page, which needs no other host."""

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from raypurify.serve.openapi import page
from raypurify.serve.routes.page import HEADERS

router = APIRouter()


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> HTMLResponse:
    """The API on one page."""
    return HTMLResponse(page(request.app.openapi()), headers=HEADERS)
