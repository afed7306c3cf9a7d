"""What purifiers that are one trained network share: their weights, and the network on the device of the images."""

import copy
import hashlib
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from raypurify.errors import ConfigError, TrainingError
from raypurify.nets.store import load_network
from raypurify.purifiers.transform import Transform
from raypurify.storage import resolve

FOLDER = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Learned(Transform):
    """A purifier that is one network, from images (N, 3, H, W) to images, and has the gradient of that.

    ``weights`` is the file, or its URI, of a ``network`` of the class that the subclass names, as ``save_network``
    writes it; by default the one that ships with the package. ``digest`` is the SHA-256 of that file. Raises
    ConfigError for a file that is missing or holds another network.
    """

    weights: str | Path | None = None
    digest: str = field(init=False, default="")

    differentiable: ClassVar[bool] = True
    network_class: ClassVar[type[nn.Module]]
    shipped: ClassVar[str]
    """The SHA-256 of the file in ``FOLDER`` of the subclass's name: what changes it changes the code, too."""

    def __post_init__(self) -> None:
        path = FOLDER / f"{type(self).__name__.lower()}.safetensors" if self.weights is None else self.weights
        try:
            network = load_network(path, self.network_class)
            digest = hashlib.sha256(resolve(path).read()).hexdigest()
        except (OSError, TrainingError) as error:
            raise ConfigError(f"weights={str(path)!r}: {error}") from error
        object.__setattr__(self, "digest", digest)
        object.__setattr__(self, "_network", network.requires_grad_(False))

    def transform(self, images: Tensor) -> Tensor:
        network: nn.Module = self._network  # type: ignore[attr-defined]  # frozen: set above
        return placed(network, images.device)(images)


@lru_cache(maxsize=8)
def placed(network: nn.Module, device: torch.device) -> nn.Module:
    """The network on a device: itself on the CPU, elsewhere a copy, made once.

    >>> network = nn.Identity()
    >>> placed(network, torch.device("cpu")) is network
    True
    """
    return network if device.type == "cpu" else copy.deepcopy(network).to(device)
