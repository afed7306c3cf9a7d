"""The encoder of the sparse front end (Bakiskan et al., section 2.2): of each patch the signs of a few coefficients."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raypurify.errors import ConfigError

Draws = torch.Generator | Tensor
"""What dropout draws from: a generator, or one seed (N,) int64 for each image."""


class Survivors(NamedTuple):
    """What of an image's coefficients is left before they are quantised.

    ``projections`` (N, L, m, n) float32 is x̄ = Dᵀx of every patch; ``largest`` and ``left`` (N, L, m, n) bool say which
    of them are among the patch's T largest, and which dropout leaves.
    """

    projections: Tensor
    largest: Tensor
    left: Tensor

    @property
    def kept(self) -> Tensor:
        """Those (N, L, m, n) bool that are among the T largest and were not dropped."""
        return self.largest & self.left

    @property
    def values(self) -> Tensor:
        """x̃ (N, L, m, n), equation 2: the projections that are kept, 0 elsewhere. Its gradient is theirs, through what
        is kept alone, as the paper's W-NFGA takes it."""
        return self.projections * self.kept


class FrontEncoder(nn.Module):
    """The encoder: from images to codes of −‖d_l‖₁, 0 and ‖d_l‖₁, few of them not 0.

    Bakiskan et al., "A Neuro-Inspired Autoencoding Defense Against Adversarial Perturbations", section 2.2. Patches x
    of ``size``² pixels begin every ``stride`` pixels, and of ``atoms`` atoms d_l of norm 1 a patch has

    1. its projections x̄ = Dᵀx;
    2. of these the ``top`` T of largest |x̄_l|, the others 0;
    3. of these each with probability 1 − ``dropout``, in training and afterwards (equation 2);
    4. x̂_l = sign(x̃_l)·‖d_l‖₁ where |x̃_l| ≥ β·ε·‖d_l‖₁, 0 elsewhere (equation 3).

    By Hölder's inequality a perturbation e with ‖e‖∞ ≤ ε moves a projection by ε·‖d_l‖₁ at most, so that with β > 1
    none changes the sign of an entry that is not 0 before and after. ``top=None``, ``dropout=0`` and ``quantise=False``
    leave out steps 2, 3 and 4, as the paper's Table 2 does; without the last the code is x̃.

    Images of any size are taken, no side below ``size``: where patches do not end at the right or lower border, the
    border pixels are repeated until they do, to which the same inequality applies.

    The buffer ``dictionary`` (L, 3, b, b) float32 is for the caller to fill; ``norms`` (L, 1, 1) are ‖d_l‖₁ and
    ``thresholds`` β·ε·‖d_l‖₁.

    Raises ConfigError for settings out of range.

    >>> encoder = FrontEncoder(atoms=20, size=4, stride=2, top=5, dropout=0.5)
    >>> encoder.fill(torch.randn(20, 3, 4, 4)).code(torch.rand(2, 3, 8, 10), torch.tensor([0, 1])).shape
    torch.Size([2, 20, 3, 4])
    """

    dictionary: Tensor

    def __init__(
        self,
        atoms: int = 500,
        size: int = 4,
        stride: int = 2,
        top: int | None = 50,
        dropout: float = 0.95,
        quantise: bool = True,
        beta: float = 3.0,
        eps: float = 8 / 255,
    ):
        super().__init__()
        if atoms < 1 or not 1 <= stride <= size:
            raise ConfigError(
                f"atoms={atoms}, size={size}, stride={stride}: need an atom, and a stride from 1 to the patch's size"
            )
        if top is not None and not 1 <= top <= atoms:
            raise ConfigError(f"top={top}: give a number from 1 to {atoms}, the atoms, or None to keep all")
        if not 0 <= dropout < 1:
            raise ConfigError(f"dropout={dropout}: give a probability below 1, 0 to drop none")
        if quantise and not (beta > 1 and eps >= 0):
            raise ConfigError(f"beta={beta}, eps={eps}: need β above 1, for signs to hold, and ε of 0 or above")
        self.settings: dict[str, Any] = {
            "atoms": atoms,
            "size": size,
            "stride": stride,
            "top": top,
            "dropout": dropout,
            "quantise": quantise,
            "beta": beta,
            "eps": eps,
        }
        self.size, self.stride, self.top, self.dropout = size, stride, top, dropout
        self.quantise, self.beta, self.eps = quantise, beta, eps
        self.register_buffer("dictionary", torch.zeros(atoms, 3, size, size))

    def fill(self, dictionary: Tensor) -> "FrontEncoder":
        """Take a dictionary (L, 3, b, b), its atoms scaled to norm 1, and give the encoder itself.

        Atoms of norm 1, to what float32 holds, stay as they are to the bit.
        """
        # In float32 the norm of such an atom comes out a unit in the last place off; dividing by that moves projections
        # by as much, and of two that are nearly equal at the cut after the T-th, the other one would be kept.
        exact = dictionary.double()
        self.dictionary.copy_(exact / torch.linalg.vector_norm(exact, dim=(1, 2, 3), keepdim=True))
        return self

    @property
    def norms(self) -> Tensor:
        """‖d_l‖₁ of every atom, (L, 1, 1)."""
        return self.dictionary.abs().sum((1, 2, 3)).view(-1, 1, 1)

    @property
    def thresholds(self) -> Tensor:
        """β·ε·‖d_l‖₁ of every atom, (L, 1, 1): projections below are no part of a code."""
        return self.beta * self.eps * self.norms

    def project(self, images: Tensor) -> Tensor:
        """The projections x̄ (N, L, m, n) of images (N, 3, H, W), of any precision: float32."""
        height, width = images.shape[-2:]
        right, lower = (-(side - self.size) % self.stride for side in (width, height))
        if right or lower:
            images = F.pad(images, (0, right, 0, lower), mode="replicate")
        # By TF32, which is PyTorch's own choice for convolutions on GPUs, other coefficients would be the largest.
        with torch.autocast(images.device.type, enabled=False), _whole_floats():
            return F.conv2d(images.float(), self.dictionary, stride=self.stride)

    def survivors(self, images: Tensor, draws: Draws | None = None, first: int = 0) -> Survivors:
        """Steps 1 to 3 of images (N, 3, H, W) in [0, 1].

        ``draws`` decides what is dropped: with seeds (N,) of images each has a choice of its own, the same in any batch
        and on any device; with a generator that of the whole batch comes from it. Which entries are dropped does not
        depend on the image otherwise. Of larger images these may be the rows from patch row ``first`` on: seeds drop
        the same of them. Raises ConfigError where something is to be dropped and ``draws`` is not given.
        """
        projections = self.project(images)
        return Survivors(projections, self.largest(projections, self.top), self._left(projections, draws, first))

    def quantised(self, values: Tensor) -> Tensor:
        """Step 4 (equation 3) of values x̃ (N, L, m, n)."""
        if not self.quantise:
            return values
        return torch.where(values.abs() >= self.thresholds, values.sign() * self.norms, 0)

    def code(self, images: Tensor, draws: Draws | None = None, first: int = 0) -> Tensor:
        """The code x̂ (N, L, m, n) float32 of images (N, 3, H, W) in [0, 1]; the rest is that of :meth:`survivors`."""
        return self.quantised(self.survivors(images, draws, first).values)

    forward = code

    def largest(self, projections: Tensor, top: int | None) -> Tensor:
        """Which (N, L, m, n) bool of the projections of a patch are its ``top`` largest, or of fewer all; None: all."""
        if top is None or top >= projections.shape[1]:
            return torch.ones_like(projections, dtype=torch.bool)
        places = projections.detach().abs().topk(top, dim=1, sorted=False).indices
        return torch.zeros_like(projections, dtype=torch.bool).scatter_(1, places, True)

    def _left(self, projections: Tensor, draws: Draws | None, first: int) -> Tensor:
        if not self.dropout:
            return torch.ones_like(projections, dtype=torch.bool)
        if draws is None:
            raise ConfigError(f"dropout={self.dropout} needs draws: give a generator, or a seed for each image")
        if isinstance(draws, torch.Generator):
            chance = torch.rand(projections.shape, generator=draws, device=draws.device)
        else:
            chance = torch.empty(projections.shape)
            # On the CPU, so that every device sees the same; each row by a seed of its own, to be had alone.
            generator = torch.Generator()
            for own, seed in zip(chance, draws.tolist()):
                for row in range(own.shape[1]):
                    generator.manual_seed(seed + first + row)
                    own[:, row] = torch.rand(own[:, row].shape, generator=generator)
        return chance.to(projections.device) >= self.dropout


@contextmanager
def _whole_floats() -> Iterator[None]:
    how = torch.backends.cudnn
    with how.flags(enabled=how.enabled, benchmark=how.benchmark, deterministic=how.deterministic, allow_tf32=False):
        yield
