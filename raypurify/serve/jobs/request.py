"""What callers may ask of a job, and the command of ``raypurify purify`` that does it."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from raypurify.containers.registry import KINDS
from raypurify.serve.jobs.refused import Refused

MAX_BYTES = 64 << 10
_MOST_INPUTS = 100
# Of one image, as for ``raypurify purify`` by itself.
_MOST_PIXELS = 1 << 24
_MANY = 1 << 40


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("give printable characters")
    return text


# It becomes an argument of a process, which a zero byte would end.
_Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_printable)]
_Path = Annotated[str, Field(min_length=1, max_length=2048)]


class JobOptions(BaseModel):
    """Options of ``raypurify purify`` that callers may choose."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: Literal["png", "webp", "jpeg"] = Field("png", description="of the images written; jpeg itself purifies")
    compression: Literal["small", "fast"] = Field("small", description="of png and webp: fast takes less time")
    overwrite: bool = Field(False, description="replace what an earlier job wrote to the output")
    retry_failed: bool = Field(False, description="do shards with failed images again")
    max_pixels: int = Field(_MOST_PIXELS, ge=1, le=_MOST_PIXELS, description="larger images become error rows")
    sheet: int = Field(8, ge=0, le=64, description="pairs in the picture of examples; 0: no picture")
    limit: int | None = Field(None, ge=1, le=_MANY, description="purify the first so many images only")
    sample: int | None = Field(None, ge=1, le=_MANY, description="purify a seeded choice of so many images only")
    kind: Literal[tuple(KINDS)] | None = Field(  # type: ignore[valid-type]  # known when it runs
        None, description="what to read of several kinds"
    )
    image_column: _Name | None = Field(None, description="column of Parquet files with the images")
    id_column: _Name | None = Field(None, description="column of Parquet files with unique ids")
    image_member: _Name | None = Field(None, description="members of tars that are images, e.g. jpg")
    drop_failed: bool = Field(False, description="leave rows and samples out whose image failed")
    strict: bool = Field(False, description="refuse an input with a damaged file; else do the others")
    engine: Literal["serve", "actors"] = Field("serve", description="who purifies: this endpoint, or the job's actors")


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class JobRequest(BaseModel):
    """A job that a caller posts: what to purify, where to, and how."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    input: Annotated[
        list[_Path],
        Field(min_length=1, max_length=_MOST_INPUTS, description="paths or URIs below the job roots"),
        BeforeValidator(_listed),
    ]
    output: _Path = Field(description="path or URI below the job roots, where the same kind of container is written")
    options: JobOptions = JobOptions()


def parse_request(body: bytes) -> JobRequest:
    """The job that a body asks for. Raises Refused 422 that names the first thing that is wrong."""
    try:
        return JobRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        raise Refused(422, "bad-request", f"{where[:100]}: {first['msg']}; see /docs") from error


def bounded(request: JobRequest, max_pixels: Mapping[str, int | None]) -> JobRequest:
    """The request with images of at most the ``max_pixels`` of its engine; None bounds nothing."""
    options = request.options
    most = max_pixels[options.engine]
    if most is None or options.max_pixels <= most:
        return request
    return request.model_copy(update={"options": options.model_copy(update={"max_pixels": most})})


def request_schema() -> dict[str, Any]:
    """The JSON schema of a request in one piece, as an OpenAPI body wants it."""
    schema = JobRequest.model_json_schema()
    fields = schema["properties"]
    fields["options"] = schema.pop("$defs")["JobOptions"]
    fields["input"] = {"anyOf": [fields["input"]["items"], fields["input"]]}
    return schema


def arguments(request: JobRequest, *, bundle: str, address: str, overwrite: bool) -> list[str]:
    """The arguments of ``raypurify`` that do a job with this bundle on the cluster at ``address``.

    ``overwrite`` stands for the request's own: of a job that goes on it is no longer wanted.
    """
    chosen = request.options.model_dump(exclude={"overwrite"}) | {"overwrite": overwrite}
    options = {"bundle": bundle, "address": address} | chosen
    # A value stands behind = and is never taken for an option.
    words = [
        f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}")
        for name, value in options.items()
        if value is not None and value is not False
    ]
    return ["purify", *words, "--", *request.input, request.output]
