"""Answers of several images in one body: ``multipart/mixed``, or a zip."""

import io
import json
import secrets
import zipfile
from collections.abc import Sequence
from typing import Any, NamedTuple

from raypurify.images import SUFFIX
from raypurify.serve.http import Refusal, provenance_headers

OFFERED = ("multipart/mixed", "application/zip")
FORMATS = {"image/png": "png", "image/webp": "webp", "image/jpeg": "jpeg"}
# Equal images give equal bytes.
_NO_TIME = (1980, 1, 1, 0, 0, 0)


class Encoded(NamedTuple):
    """A purified image as it is sent: its bytes, their media type, and the facts about it."""

    data: bytes
    kind: str
    facts: dict[str, Any]


def pack(answers: Sequence[Encoded | Refusal], kind: str) -> tuple[bytes, str]:
    """The body of an answer of the media type ``kind``, one of ``OFFERED``, and the whole of its ``Content-Type``.

    Each image is a file named by its number, 0000.png; where it was refused, 0000.json with the error. A part of a
    multipart has the number, the status and the provenance in its headers, a zip all of these in ``index.json``.
    """
    return _zipped(answers) if kind == "application/zip" else _mixed(answers)


def _mixed(answers: Sequence[Encoded | Refusal]) -> tuple[bytes, str]:
    boundary = secrets.token_hex(16)
    pieces = []
    for number, answer in enumerate(answers):
        name, data, kind = _file(number, answer)
        headers = {
            "Content-Type": kind,
            "Content-Disposition": f'attachment; filename="{name}"',
            "X-Raypurify-Image": str(number),
            "X-Raypurify-Status": str(_status(answer)),
        }
        if isinstance(answer, Encoded):
            headers |= provenance_headers(answer.facts)
        lines = "".join(f"{key}: {value}\r\n" for key, value in headers.items())
        pieces += [f"--{boundary}\r\n{lines}\r\n".encode(), data, b"\r\n"]
    return b"".join([*pieces, f"--{boundary}--\r\n".encode()]), f"multipart/mixed; boundary={boundary}"


def _zipped(answers: Sequence[Encoded | Refusal]) -> tuple[bytes, str]:
    out, index = io.BytesIO(), []
    with zipfile.ZipFile(out, "w") as archive:
        for number, answer in enumerate(answers):
            name, data, _ = _file(number, answer)
            archive.writestr(zipfile.ZipInfo(name, _NO_TIME), data)
            about: Any = answer.facts if isinstance(answer, Encoded) else answer.detail
            index.append({"file": name, "status": _status(answer)} | about)
        archive.writestr(zipfile.ZipInfo("index.json", _NO_TIME), json.dumps(index, ensure_ascii=False))
    return out.getvalue(), "application/zip"


def _file(number: int, answer: Encoded | Refusal) -> tuple[str, bytes, str]:
    if isinstance(answer, Encoded):
        return f"{number:04}{SUFFIX[FORMATS[answer.kind]]}", answer.data, answer.kind
    return f"{number:04}.json", json.dumps(answer.detail).encode(), "application/json"


def _status(answer: Encoded | Refusal) -> int:
    return 200 if isinstance(answer, Encoded) else answer.status_code
