"""What the API page says of the Open Inference Protocol: its parameters, bodies and answers in the OpenAPI schema."""

from typing import Any

from raypurify.serve.openapi import RETRY, TIMEOUT, Answers, answer
from raypurify.serve.tensors import FACTS, IMAGE, MODEL, OUTPUTS

_TEXT = {"type": "string"}
_ERROR = {"type": "object", "required": ["error"], "properties": {"error": _TEXT}}
_WHOLE = {"type": "integer"}
_SHAPE = {"type": "array", "items": _WHOLE, "minItems": 1, "maxItems": 4}
_PARAMETERS = {"type": ["object", "null"]}


def _path(name: str, text: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "description": text, "schema": _TEXT}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": [*properties], "properties": properties}


def _list(items: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, **more}


def _refused(**texts: str) -> Answers:
    return {int(status[1:]): answer(text, {"application/json": _ERROR}) for status, text in texts.items()}


_MODEL = _path("model", f"the model's name: {MODEL}")
PATHS = {
    "/models/{model}": [_MODEL],
    "/models/{model}/versions/{version}": [_MODEL, _path("version", "the first 16 digits of the bundle's digest")],
}

_BINARY = {"application/octet-stream": {"type": "string", "format": "binary"}}
_TENSOR = _object(name=_TEXT, datatype=_TEXT, shape=_list(_WHOLE))
_NO_REPLICA = {"s503": "no purifier replica answers, or the endpoint is ending"}
_UNKNOWN = {"s404": "another model or version"}

LIVE: Answers = {200: answer("the endpoint runs", {"application/json": _object(live={"const": True})})}
READY: Answers = {
    200: answer("images are taken in", {"application/json": _object(ready={"const": True}, bundle=_TEXT)}),
    **_refused(**_NO_REPLICA),
}
SERVER: Answers = {
    200: answer("the server", {"application/json": _object(name=_TEXT, version=_TEXT, extensions=_list(_TEXT))})
}
METADATA: Answers = {
    200: answer(
        "the model",
        {
            "application/json": _object(
                name=_TEXT, versions=_list(_TEXT), platform=_TEXT, inputs=_list(_TENSOR), outputs=_list(_TENSOR)
            )
        },
    ),
    **_refused(**_UNKNOWN, **_NO_REPLICA),
}
MODEL_READY: Answers = {
    200: answer("the model takes in images", {"application/json": _object(name=_TEXT, ready={"const": True})}),
    **_refused(**_UNKNOWN, **_NO_REPLICA),
}

_INPUT = _object(name={"const": IMAGE}, datatype={"const": "UINT8"}, shape={**_SHAPE, "minItems": 3}, data=_list({}))
_INPUT["properties"]["parameters"] = _PARAMETERS
_WANTED = _object(name={"enum": [*OUTPUTS]})
_WANTED["properties"]["parameters"] = _PARAMETERS
_REQUEST = _object(inputs=_list(_INPUT, minItems=1, maxItems=1))
_REQUEST["properties"] |= {"id": _TEXT, "parameters": _PARAMETERS, "outputs": _list(_WANTED)}
_OUTPUT = _object(name={"enum": [*OUTPUTS]}, datatype={"enum": ["UINT8", *dict(FACTS.values())]}, shape=_SHAPE)
_OUTPUT["properties"] |= {"parameters": {"type": "object"}, "data": _list({"type": ["number", "boolean"]})}
_ANSWER = _object(model_name={"const": MODEL}, model_version=_TEXT, outputs=_list(_OUTPUT))
_ANSWER["properties"]["id"] = _TEXT
_LENGTH = "Inference-Header-Content-Length"

INFER: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {kind: {"schema": schema} for kind, schema in ({"application/json": _REQUEST} | _BINARY).items()},
    },
    "parameters": [
        {
            "name": _LENGTH,
            "in": "header",
            "required": False,
            "description": "bytes of JSON at the beginning of the body, where binary data follow",
            "schema": {"type": "integer", "minimum": 0},
        },
        TIMEOUT,
    ],
}
INFERRED: Answers = {
    200: answer(
        "the outputs that were asked for, or all; as JSON, or as JSON with binary data behind it",
        {"application/json": _ANSWER} | _BINARY,
        {_LENGTH: "bytes of JSON, where binary data follow"},
    ),
    **_refused(
        s400="no request of the protocol, or one with other tensors or too many images",
        s401="no token, or a wrong one",
        **_UNKNOWN,
        s408="the body did not come in time",
        s413="more bytes or pixels than the limits",
        s415="a body of another type, or compressed",
        s422="too small",
        s429="more images a second than this token may send; Retry-After says when to ask again",
        s500="the purifier failed on this image",
        s504="no answer within the time that was given",
    ),
    503: answer("too many images are waiting, or the endpoint is ending", {"application/json": _ERROR}, RETRY),
}
