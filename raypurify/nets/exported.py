"""Classifiers in files of ``torch.export``: graphs of torch's operators with their weights, without what could be code.

``torch.export.load`` unpickles Python objects where a file holds such, loads compiled libraries, evaluates texts of
shapes, calls whatever of torch a graph names, and writes names of a graph into Python that it runs. So a file is taken
apart first. Refused is a file with records other than tensors and the graph, with operators that are not aten's or
prims', or with names that are none; guards and notes are left out; tensors are read with ``weights_only``.
"""

import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from raypurify.errors import SourceError
from raypurify.nets.archives import repacked, unpacked
from raypurify.storage import Where

# As torch 2.8 and later write them below one folder, and as 2.6 and 2.7 did.
_RECORD = re.compile(
    r"(?:[\w-]+/)?(?:\.data/\w+|\.format_version|\.storage_alignment|byteorder|version|archive_\w+|models/\w+\.json"
    r"|data/weights/(?:\w+\.json|\w+\.pt|weight_\d+)|data/constants/(?:\w+\.json|\w+\.pt|tensor_\d+)"
    r"|data/sample_inputs/\w+\.pt|serialized_exported_program\.json"
    r"|serialized_(?:state_dict|constants|example_inputs)\.(?:pt|json))"
)
_EXTRA = re.compile(r"(?:[\w-]+/extra|extra_files)/")
_OPERATOR = re.compile(r"torch\.ops\.(?:aten|prims)\.(?!\w*from_file|\w*save)\w+\.\w+|_operator\.\w+|torch\.sym_\w+")
_NAME = re.compile(r"[\w.+@-]*")
# Of arguments, as einsum's.
_STRING = re.compile(r"[\w.+,> -]*")
# Sizes are written as sympy's expressions of the symbols of a graph.
_SYMBOL = re.compile(r"Symbol\('[su]\d+'(?:, \w+=True)*\)")
_EXPRESSION = re.compile(
    r"(?:\b(?:[su]?\d+|Add|Mul|Pow|Integer|Rational|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|Max|Min)\b|[-+*/(), ])*"
)
# JSON within JSON, which says how arguments are nested.
_TREES = ("in_spec", "out_spec", "context")
# Left out: notes for people, and what is written to be evaluated.
_NOTES: dict[str, Any] = {"metadata": {}, "guards_code": []}
# The switch of torch is the process's, and who ends first would take it from under another.
_SWITCH = threading.Lock()


class Exported(nn.Module):
    """A network out of a file of ``torch.export``: of the mode that it was exported in."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images)

    def train(self, mode: bool = True) -> "Exported":
        # The network itself would refuse.
        self.training = mode
        return self


def load_exported(path: Where) -> nn.Module:
    """Read a classifier saved by ``torch.export.save``, frozen. Export it in evaluation mode.

    It must take images (N, 3, H, W) in [0, 1], of any N: ``dynamic_shapes`` says so at its export. Raises SourceError
    for a file that is missing, is no such file, or holds what is refused (see the module).
    """
    given = {name: data for name, data in unpacked(path).items() if not _EXTRA.match(name)}
    records = {name: _looked_at(path, name, data) for name, data in given.items()}
    try:
        with _tensors_alone():
            network = torch.export.load(repacked(records)).module()
    except Exception as error:  # torch has many
        raise SourceError(
            f"{path}: not a network that this torch can read ({' '.join(str(error).split())[:200]}); "
            "save it again by torch.export.save, with plain tensors"
        ) from error
    return Exported(network).requires_grad_(False)


def _looked_at(path: Where, name: str, data: bytes) -> bytes:
    if not _RECORD.fullmatch(name):
        raise SourceError(f"{path}: holds {name}, which may be code; save a network of tensors and aten's operators")
    if not name.endswith(".json"):
        return data
    try:
        return json.dumps(_checked(json.loads(data))).encode()
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path}: {name}: {error}; save it again, with aten's operators alone") from error


def _checked(value: Any, key: str = "") -> Any:
    """A value of a graph without notes. Raises ValueError for a text that may be more than a name."""
    if isinstance(value, dict):
        for name in value:
            _check_text(name, "name")
        return {name: _NOTES[name] if name in _NOTES else _checked(one, name) for name, one in value.items()}
    if isinstance(value, list):
        return [_checked(one, key) for one in value]
    if isinstance(value, str):
        if key in _TREES:
            _checked(json.loads(value))
        else:
            _check_text(value, key)
    return value


def _check_text(text: str, key: str) -> None:
    if key == "target" and text:
        fits = _OPERATOR.fullmatch(text)
    elif key == "expr_str":
        fits = _EXPRESSION.fullmatch(_SYMBOL.sub("s0", text))
    elif key in ("as_string", "as_strings"):
        fits = _STRING.fullmatch(text)
    else:
        fits = _NAME.fullmatch(text)
    if not fits or len(text) > 1000:
        raise ValueError(f"{key} {text[:80]!r} is not known to be harmless")


@contextmanager
def _tensors_alone() -> Iterator[None]:
    """Within the block torch reads pickles with ``weights_only``, whatever its own code asks for."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    with _SWITCH:
        before = os.environ.get(name)
        os.environ[name] = "1"
        try:
            yield
        finally:
            if before is None:
                del os.environ[name]
            else:
                os.environ[name] = before
