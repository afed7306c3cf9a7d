"""Classifiers in files of TorchScript: programs of torch's operators with their weights, read without Python's pickle.

torch reads such a file in C++: of what stands in its pickles only tensors, plain values and classes of the file's own
code are made, no Python object. That code runs, however, some of it while it is read, and two of torch's operators
reach files: one writes any, one maps any. Files that name these, operators of other libraries, or classes made in C++
are refused, as far as their text tells: a file of TorchScript is a program, to be had from those who are trusted.
"""

import re

import torch
from torch import nn

from raypurify.errors import SourceError
from raypurify.nets.archives import repacked, unpacked
from raypurify.nets.normalised import Normalised
from raypurify.storage import Where

_CODE = re.compile(r"[^/]+/code/.*\.py")
# torch writes code from its graphs, so it never gives a library another name.
_REFUSED = {
    "reaches files": re.compile(r"\.\s*(?:save|_?from_file\w*)\b"),
    "calls operators of another library": re.compile(r"(?<![\w.])ops\s*\.\s*(?!(?:aten|prims?|quantized)\b)\w+"),
    "hides what it calls": re.compile(r"[=(,]\s*(?:torch|ops(?:\s*\.\s*\w+)?)\s*(?=[\n,;)#\\])"),
}
_BOUND = b"torch.classes"


def load_torchscript(path: Where) -> nn.Module:
    """Read a classifier saved by ``torch.jit.save``, frozen and in evaluation mode.

    It must take images (N, 3, H, W) in [0, 1]. Raises SourceError for a file that is missing, is no such file, or does
    what is refused (see the module).
    """
    records = unpacked(path)
    for name, data in records.items():
        if _BOUND in data and name.endswith((".py", ".pkl")):
            raise SourceError(f"{path}: {name} has objects made in C++; save a network without them")
        text = data.decode("utf-8", "replace") if _CODE.fullmatch(name) else ""
        for what, pattern in _REFUSED.items():
            if found := pattern.search(text):
                raise SourceError(f"{path}: {name} {what} ({found[0].strip()}); save a network that does not")
    try:
        network = torch.jit.load(repacked(records), map_location="cpu")
    except (OSError, RuntimeError, ValueError) as error:
        raise SourceError(
            f"{path}: not a file of TorchScript ({' '.join(str(error).split())[:200]}); save one by torch.jit.save"
        ) from error
    # Itself it cannot be frozen.
    return Normalised(network).eval().requires_grad_(False)
