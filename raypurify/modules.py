"""A purifier as a module of torch: for ``nn.Sequential``, for transforms, and for attacks of other libraries."""

import hashlib
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor, nn

import raypurify
from raypurify.attacks.adaptive import bpda, smooth_surrogate, through_solver
from raypurify.errors import ConfigError, DataError
from raypurify.files import fingerprint
from raypurify.purifiers import Purifier
from raypurify.purifiers.base import checked
from raypurify.purifiers.transform import Transform

MODES = ("bpda", "bpda-smooth", "implicit", "none")


class PurifierModule(nn.Module):
    """A purifier, of a bundle or ready made, as a module from images to purified images of their shape and dtype.

    Images are (N, 3, H, W) or one (3, H, W), floating point in [0, 1] or uint8 from 0 to 255; a subclass of Tensor,
    such as torchvision's ``tv_tensors.Image``, comes back as one. Anything else raises DataError.

    Values are those of ``purifier.purify``; ``mode`` says what autograd sees of it:

    - "bpda": the identity; "bpda-smooth": the low-pass surrogate of ``attacks.adaptive.lowpass``;
    - "implicit": the gradient through the low-pass and the sparse coding, by the implicit function theorem, and of a
      purifier without a solver its own. While a gradient is wanted, codes are solved more tightly, to 1e-3
      (``attacks.adaptive.through_solver``);
    - "none": a constant.

    The purifier is no part of what is trained: no parameters, the same in ``train()`` and ``eval()``, computed in
    float32 also under autocast and after ``half()``. ``state_dict`` holds its digest alone, as a tensor, and loading
    that of another purifier raises ConfigError. ``to`` moves a purifier that has a method ``to``, as a bundle's has.

    >>> defended = nn.Sequential(PurifierModule("cifar10"), raypurify.load("cifar10").network)
    >>> defended(torch.rand(1, 3, 32, 32)).shape
    torch.Size([1, 10])
    """

    def __init__(self, purifier: Purifier | str | Path = "cifar10", mode: str = "bpda"):
        super().__init__()
        made: Any = raypurify.load(purifier) if isinstance(purifier, str | Path) else purifier
        self.purifier: Purifier = made
        self.mode = mode
        self._place: Tensor
        self._map()  # refuses what cannot be
        # What moves with the module, and so says where to.
        self.register_buffer("_place", torch.empty(0, device=getattr(made, "device", None)), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Purified images of the shape, dtype and device of ``images``. Raises DataError."""
        if not isinstance(images, Tensor) or images.ndim not in (3, 4):
            what = f"one of shape {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
            raise DataError(
                f"images must be a tensor (N, 3, H, W) or (3, H, W), not {what}: "
                "torchvision.transforms.v2.ToImage() makes one of a PIL image or an array"
            )
        plain = images.as_subclass(Tensor)
        whole = plain.dtype == torch.uint8
        batch = plain.float() / 255 if whole else plain.float() if plain.is_floating_point() else plain
        given, own = plain.device.type, self._place.device.type
        with torch.autocast(given, enabled=False), torch.autocast(own, enabled=False):
            purified = self._map()(batch if batch.ndim == 4 else batch[None])
        purified = purified.to(plain.device).reshape(plain.shape)
        # Rounded as images.to_pixels does.
        purified = (purified * 255 + 0.5).floor().to(torch.uint8) if whole else purified.to(plain.dtype)
        return purified if isinstance(images, nn.Parameter) else purified.as_subclass(type(images))

    def extra_repr(self) -> str:
        return f"{type(self.purifier).__name__}, digest={self._digest()[:12]}, mode={self.mode!r}"

    def get_extra_state(self) -> Tensor:
        """The digest of the purifier, 32 bytes."""
        return torch.tensor(list(bytes.fromhex(self._digest())), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Raise ConfigError where ``state`` is not that of this purifier."""
        if not torch.equal(state.cpu(), self.get_extra_state()):
            raise ConfigError(
                f"the weights were saved with another purifier, {bytes(state.tolist()).hex()[:12]}, and this one is "
                f"{self._digest()[:12]}: make the module of the same bundle and settings"
            )

    def _apply(self, fn: Callable, recurse: bool = True) -> "PurifierModule":
        super()._apply(fn, recurse)
        if hasattr(self.purifier, "to"):
            self.purifier = self.purifier.to(self._place.device)
        return self

    def _digest(self) -> str:
        held = [field.name for field in fields(self.purifier)] if is_dataclass(self.purifier) else _IDENTITY
        return fingerprint(type(self.purifier).__name__, {name: _fact(self.purifier, name) for name in held})

    def _map(self) -> Callable[[Tensor], Tensor]:
        """The map of float32 images (N, 3, H, W) in [0, 1] that ``mode`` says. Raises ConfigError."""
        purifier = self.purifier
        if self.mode == "none":
            return lambda images: purifier.purify(images.detach()).images
        if self.mode in ("bpda", "bpda-smooth"):
            surrogate = smooth_surrogate(purifier) if self.mode == "bpda-smooth" else "identity"
            return bpda(_itself, lambda images: purifier.purify(images).images, surrogate)
        if self.mode != "implicit":
            raise ConfigError(f"unknown mode {self.mode!r}: choose one of {', '.join(MODES)}")
        if hasattr(purifier, "purify_differentiably"):
            return through_solver(_itself, purifier)  # type: ignore[arg-type]  # it has a solver
        if isinstance(purifier, Transform) and purifier.differentiable:
            return lambda images: purifier.transform(checked(images, purifier.min_size, "its window")).clamp(0, 1)
        raise ConfigError(f"{type(purifier).__name__} has no gradient of its own: choose mode='bpda'")


# What tells a purifier that is no dataclass of settings from another.
_IDENTITY = ("digest", "settings")


def _fact(purifier: Any, name: str) -> Any:
    value = getattr(purifier, name, None)
    if isinstance(value, Tensor):
        return hashlib.sha256(value.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else repr(value)


def _itself(images: Tensor) -> Tensor:
    return images
