"""State dicts of other people's networks: read as tensors alone, put into a network, told from others."""

import hashlib
import io
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from safetensors.torch import load
from torch import nn

from raypurify.errors import SourceError, of_file
from raypurify.storage import Where, resolve

Net = TypeVar("Net", bound=nn.Module)


def read_state(path: Where) -> dict[str, torch.Tensor]:
    """The state dict in a file of ``torch.save`` or of safetensors, by the names that the network had.

    It may lie under ``"state_dict"``, and its names may have the ``module.`` of ``DataParallel``. Only tensors are read
    from it, never arbitrary objects.

    Raises SourceError for a file that is missing or holds no state dict.
    """
    try:
        data = resolve(path).read()
        if str(path).endswith(".safetensors"):
            found: Any = load(data)
        else:
            found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise SourceError(f"{path}: no such file of weights; check the path") from None
    except MemoryError:
        raise
    except Exception as error:  # torch has many
        raise SourceError(f"{path}: not a file of plain tensors ({of_file(error)}); save its state_dict") from error
    state = found.get("state_dict", found) if isinstance(found, dict) else {}
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise SourceError(f"{path}: holds no state dict; save one by torch.save(network.state_dict(), …)")
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def filled(make: Callable[[], Net], state: Mapping[str, torch.Tensor], path: Where, name: str) -> Net:
    """The network that ``make()`` gives, with the state of ``path``.

    Raises SourceError where that is of another architecture than ``name``.
    """
    try:
        network = make()
        network.load_state_dict(state)
    except (RuntimeError, TypeError, ValueError) as error:
        raise SourceError(
            f"{path}: does not fit {name}: {' '.join(str(error).split())[:300]}; check the name"
        ) from error
    return network


def state_digest(network: nn.Module) -> str:
    """The SHA-256 of the tensors of a network's state dict, and of buffers that it leaves out: names, types, shapes and
    values. Other attributes of its modules do not count.

    >>> state_digest(nn.ReLU()) == state_digest(nn.Flatten()) != state_digest(nn.BatchNorm2d(2))
    True
    """
    digest = hashlib.sha256()
    for name, value in sorted({**dict(network.named_buffers()), **network.state_dict()}.items()):
        if isinstance(value, torch.Tensor):
            digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
