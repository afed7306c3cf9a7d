"""``/v2``: the endpoint as the Open Inference Protocol has it, for clients of KServe and Triton."""

from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from raypurify.serve import openapi_v2 as says
from raypurify.serve.deadline import Deadline
from raypurify.serve.front import Front, caller, front, refusing
from raypurify.serve.gate import retry_after
from raypurify.serve.http import Refusal, check_type, read_body
from raypurify.serve.many import each
from raypurify.serve.routes.health import digest
from raypurify.serve.tensors import FACTS, IMAGE, MODEL, PURIFIED, InferLimits, read, write
from raypurify.version import __version__

router = APIRouter(prefix="/v2")

_LENGTH = "Inference-Header-Content-Length"
_MUCH = 1 << 20
# Hexadecimal digits of a bundle's digest that are the version of the model.
_DIGITS = 16


def _call(method: str, path: str = "", extra: dict[str, Any] | None = None, **options: Any) -> Callable:
    """Registers a call of a model at the model's path, and at that of its versions."""

    def register(handler: Callable) -> Callable:
        for where, parameters in says.PATHS.items():
            described = {**(extra or {}), "parameters": [*parameters, *(extra or {}).get("parameters", [])]}
            router.add_api_route(where + path, handler, methods=[method], openapi_extra=described, **options)
        return handler

    return register


def named(request: Request) -> None:
    """Raises Refusal 404 where the path names another model, for ``Depends``."""
    model = request.path_params["model"]
    if model != MODEL:
        raise Refusal(404, "not-found", f"no model is named {model[:100]!r}; this endpoint serves {MODEL!r}")


async def served(request: Request, front: Annotated[Front, Depends(front)], _: Annotated[None, Depends(named)]) -> str:
    """The version of the model that is served, for ``Depends``. Raises Refusal 404 where the path names another."""
    return _version(request, await digest(front))


def _version(request: Request, bundle: str) -> str:
    version, named = bundle[:_DIGITS], request.path_params.get("version", bundle[:_DIGITS])
    if named != version:
        raise Refusal(404, "not-found", f"{MODEL!r} has no version {named[:100]!r} here; it has {version!r}")
    return version


@router.get("", responses=says.SERVER)
async def server() -> dict:
    """What the server is."""
    return {"name": MODEL, "version": __version__, "extensions": ["binary_tensor_data"]}


@_call("GET", responses=says.METADATA)
async def metadata(version: Annotated[str, Depends(served)]) -> dict:
    """The tensors of a model. Its version is the beginning of the bundle's digest."""
    image = {"datatype": "UINT8", "shape": [-1, -1, -1, 3]}
    facts = [{"name": name, "datatype": datatype, "shape": [-1]} for name, (datatype, _) in FACTS.items()]
    return {
        "name": MODEL,
        "versions": [version],
        "platform": "raypurify",
        "inputs": [{"name": IMAGE, **image}],
        "outputs": [{"name": PURIFIED, **image}, *facts],
    }


@_call("GET", "/ready", responses=says.MODEL_READY)
async def model_ready(version: Annotated[str, Depends(served)]) -> dict:
    """200 while the model takes in images."""
    return {"name": MODEL, "ready": True}


@_call(
    "POST",
    "/infer",
    extra=says.INFER,
    responses=says.INFERRED,
    response_class=Response,
    dependencies=[Depends(caller), Depends(named)],
)
async def infer(request: Request, front: Annotated[Front, Depends(front)]) -> Response:
    """Purify the tensor `image`, UINT8 of the shape [N, H, W, 3] or [H, W, 3], as JSON or as binary data."""
    settings, deadline = front.settings, Deadline(request, front.settings.timeout_s)
    check_type(request, "application/json", "application/octet-stream")
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Refusal(415, "wrong-type", "the body is compressed; send it as it is")
    most = min(settings.max_batch_images, settings.max_queued_requests)
    caller = request.state.caller
    limits = InferLimits(caller.max_bytes, most, caller.max_pixels, settings.max_waiting_pixels)
    with front.metrics.refused() as told, refusing(deadline), ExitStack() as taken:
        if "version" in request.path_params:
            _version(request, await deadline.within(digest(front)))
        with front.gate.reading() as hold:
            body = await deadline.reading(read_body(request, caller.max_batch_bytes, hold))
            async with front.parsing if len(body) > _MUCH else nullcontext():
                asked = await deadline.within(front.in_thread(read, body, request.headers.get(_LENGTH), limits))
            # Numbers of JSON are no part of the images.
            del body
            told(len(asked.images))
            caller.charge(len(asked.images))
            for image in asked.images:
                taken.enter_context(front.gate.image())(image.shape[0] * image.shape[1])
        told(0)  # from here on each by itself
        jobs = [partial(front.asked, image, deadline) for image in asked.images]
        answers = await each(jobs, deadline, front.metrics)
        for answer in answers:
            if isinstance(answer, Refusal):
                raise answer
        pixels, facts = zip(*answers)
        version = _version(request, facts[0]["bundle"])
        if len({one["bundle"] for one in facts}) > 1:
            raise Refusal(503, "unavailable", "the bundle was exchanged meanwhile; ask again", retry_after(1))
        data, length = await deadline.within(front.in_thread(write, asked, pixels, facts, version))
    if length is None:
        return Response(data, media_type="application/json")
    return Response(data, media_type="application/octet-stream", headers={_LENGTH: str(length)})
