"""Tensors of the Open Inference Protocol: a request's images out of JSON and binary data, and answers into both.

Nothing is allocated by what a request claims: a shape is held against the limits and the bytes that came.
"""

import json
import math
from collections.abc import Sequence
from itertools import chain
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raypurify.serve.http import Refusal

MODEL = "raypurify"
IMAGE = "image"
PURIFIED = "purified"
# Facts about an image, and the types that the protocol has for them.
FACTS = {
    "cluster": ("INT32", "<i4"),
    "distance": ("FP32", "<f4"),
    "flagged": ("BOOL", "?"),
    "iterations": ("INT32", "<i4"),
    "relative_change": ("FP32", "<f4"),
}
OUTPUTS = (PURIFIED, *FACTS)
# Brackets of nested arrays are lists, which take more memory than their text: one for each pixel is the most there is.
_BYTES_OF_A_LIST = 8
_SPARE = 4096


class InferLimits(NamedTuple):
    """What a request may ask for: bytes of JSON, images, pixels of one, pixels of all."""

    json_bytes: int
    images: int
    pixels: int
    all_pixels: int


class _Part(BaseModel):
    model_config = ConfigDict(strict=True)


class _Input(_Part):
    name: str
    shape: Annotated[list[int], Field(min_length=3, max_length=4)]
    datatype: str
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = None


class _Output(_Part):
    name: str
    parameters: dict[str, Any] | None = None


class InferRequest(_Part):
    """The JSON of a request."""

    id: str | None = None
    parameters: dict[str, Any] | None = None
    inputs: Annotated[list[_Input], Field(min_length=1, max_length=1)]
    outputs: Annotated[list[_Output], Field(max_length=16)] | None = None


class Asked(NamedTuple):
    """A request that was read: uint8 images (N, H, W, 3), the shape that was given them, and what is to be answered.

    ``outputs`` are the names of the outputs and whether each is wanted as binary data.
    """

    images: np.ndarray
    shape: tuple[int, ...]
    id: str | None
    outputs: dict[str, bool]


def read(body: bytes, json_length: str | None, limits: InferLimits) -> Asked:
    """The images of a request's body; ``json_length`` is its header ``Inference-Header-Content-Length``.

    Raises Refusal 400 for what is not a request of the protocol or has too many images, 413 for too much JSON or too
    many pixels.
    """
    if json_length is not None and not (json_length.isascii() and json_length.isdigit() and len(json_length) < 20):
        raise _wrong("the header Inference-Header-Content-Length is no number of bytes")
    length = len(body) if json_length is None else int(json_length)
    if length > len(body):
        raise _wrong(f"the header Inference-Header-Content-Length says {length:,}, the body has {len(body):,} bytes")
    asked = _parsed(body[:length], limits)
    tensor = asked.inputs[0]
    if (tensor.name, tensor.datatype) != (IMAGE, "UINT8"):
        raise _wrong(f"the input is {tensor.name[:100]!r} of {tensor.datatype[:20]!r}; send {IMAGE!r} of 'UINT8'")
    shape = _shape(tensor.shape, limits)
    parameters, binary = tensor.parameters or {}, memoryview(body)[length:]
    if "binary_data_size" in parameters:
        flat = _binary(binary, parameters["binary_data_size"], math.prod(shape))
    elif len(binary):
        raise _wrong("binary data of no input follow the JSON; give its parameters a binary_data_size")
    else:
        flat = np.frombuffer(_values(tensor.data, shape), np.uint8)
    images = flat.reshape((-1, *shape[-3:]))
    return Asked(images, shape, asked.id, _outputs(asked))


def write(
    asked: Asked, pixels: Sequence[np.ndarray], facts: Sequence[dict[str, Any]], version: str
) -> tuple[bytes, int | None]:
    """The body of an answer, and how many bytes of it are JSON where binary data follow."""
    outputs, binary = [], []
    for name, as_binary in asked.outputs.items():
        if name == PURIFIED:
            datatype, array = "UINT8", np.stack(pixels).reshape(asked.shape)
        else:
            datatype, kind = FACTS[name]
            array = np.array([one[name] for one in facts], np.dtype(kind))
        output: dict[str, Any] = {"name": name, "shape": list(array.shape), "datatype": datatype}
        if as_binary:
            output["parameters"] = {"binary_data_size": array.nbytes}
            binary.append(array.tobytes())
        else:
            output["data"] = array.ravel().tolist()
        outputs.append(output)
    answer: dict[str, Any] = {"model_name": MODEL, "model_version": version, "outputs": outputs}
    if asked.id is not None:
        answer["id"] = asked.id
    text = json.dumps(answer).encode()
    return b"".join([text, *binary]), len(text) if binary else None


def _parsed(text: bytes, limits: InferLimits) -> InferRequest:
    if len(text) > limits.json_bytes:
        raise Refusal(413, "too-large", f"the JSON is larger than {limits.json_bytes:,} bytes; send binary data")
    lists = text.count(b"[") + text.count(b"{")
    if lists > _SPARE + len(text) // _BYTES_OF_A_LIST or text.count(b'"') > _SPARE:
        raise _wrong("the JSON is no request with a tensor of numbers")
    try:
        return InferRequest.model_validate(json.loads(text))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise _wrong(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise _wrong("the body is no JSON, or too deep") from error


def _shape(shape: list[int], limits: InferLimits) -> tuple[int, ...]:
    if min(shape) < 1 or shape[-1] != 3:
        raise _wrong(f"the shape of {IMAGE!r} is {shape}; it must be [N, H, W, 3] or [H, W, 3]")
    pixels, images = shape[-3] * shape[-2], shape[0] if len(shape) == 4 else 1
    if images > limits.images:
        raise _wrong(f"the shape {shape} is more than {limits.images:,} images; send less at a time")
    for count, most, what in (
        (pixels, limits.pixels, "pixels an image"),
        (images * pixels, limits.all_pixels, "pixels"),
    ):
        if count > most:
            raise Refusal(413, "too-large", f"the shape {shape} is more than {most:,} {what}; send less at a time")
    return tuple(shape)


def _binary(data: memoryview, size: Any, expected: int) -> np.ndarray:
    if type(size) is not int or not size == expected == len(data):
        raise _wrong(f"the shape needs {expected:,} bytes, {len(data):,} came; binary_data_size must say so, too")
    return np.frombuffer(data, np.uint8)


def _values(data: list[Any] | None, shape: tuple[int, ...]) -> bytes:
    """The bytes of a JSON array, flat or nested as its shape."""
    values = data or []
    nested = bool(values) and type(values[0]) is list
    for count in shape[1:] if nested else ():
        if any(type(row) is not list or len(row) != count for row in values):
            raise _wrong(f"the nested data of {IMAGE!r} do not have the shape {list(shape)}")
        values = list(chain.from_iterable(values))
    if len(values) != math.prod(shape):
        raise _wrong(f"the shape {list(shape)} needs {math.prod(shape):,} numbers; the data hold {len(values):,}")
    if set(map(type, values)) != {int} or not 0 <= min(values) <= max(values) <= 255:
        raise _wrong(f"the data of {IMAGE!r} must be whole numbers from 0 to 255")
    return bytes(values)


def _outputs(asked: InferRequest) -> dict[str, bool]:
    always = (asked.parameters or {}).get("binary_data_output") is True
    if not asked.outputs:
        return dict.fromkeys(OUTPUTS, always)
    unknown = [output.name for output in asked.outputs if output.name not in OUTPUTS]
    if unknown:
        raise _wrong(f"no output is named {unknown[0][:100]!r}; choose of {', '.join(OUTPUTS)}")
    return {output.name: (output.parameters or {}).get("binary_data", always) is True for output in asked.outputs}


def _wrong(text: str) -> Refusal:
    return Refusal(400, "bad-request", text)
