"""The calls of the endpoint, one module each: an ``APIRouter`` named ``router``, and its place in ``ROUTERS``.

A route asks for ``Depends(front)`` to reach the purifier, and for ``Depends(caller)`` where a token is wanted
(:mod:`raypurify.serve.front`). What it refuses is a :class:`~raypurify.serve.http.Refusal`. Bodies and answers that
OpenAPI cannot read off the function stand in :mod:`raypurify.serve.openapi`.
"""

from raypurify.serve.routes import batch, bundle, docs, health, infer, jobs, page, purify

ROUTERS = (
    purify.router,
    batch.router,
    health.router,
    infer.router,
    jobs.router,
    bundle.router,
    docs.router,
    page.router,
)
