"""StAdv: Xiao, Zhu, Li, He, Liu, Song, "Spatially transformed adversarial examples", ICLR 2018.

Images are bent instead of overlaid. No bound on pixel differences says how visible that is, so the budget is a flow.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from raypurify.attacks.adam import Adam
from raypurify.attacks.ascent import check_batch, input_gradient, wide
from raypurify.attacks.base import Loss, Model
from raypurify.attacks.budget import check_size, per_image
from raypurify.attacks.losses import margin, values
from raypurify.attacks.rounds import check_rounds
from raypurify.attacks.success import confirmed
from raypurify.errors import ConfigError


@dataclass(frozen=True)
class StAdv:
    """StAdv: every pixel of x′ is taken from a place of x at most ``eps`` pixels away along each axis, bilinearly.

    The flow f is found by Adam on margin(x′) − τ · Σ √(‖∇f‖² + 1e-8) (the paper's eq. 2 to 4 with its τ = 0.05; it
    uses L-BFGS and has no bound), clipped to the bound after each of ``steps``, and starts at zero. ``smoothness`` is
    τ: the larger, the less neighbouring pixels move apart. ``norm`` can only be ``"flow"``: ``eps`` is in pixels, and
    the pixel differences of x′ may have any size. Places outside the image are those of its border, across
    which its outermost pixels do not move.

    An image that is fooled, and stays so when rounded to 8 bits, is left alone. A ``loss`` given to the call is raised
    in the margin's place with all the steps; it has to give one value per image, or DataError is raised.

    >>> from raypurify.attacks import StAdv
    >>> x = torch.linspace(0, 1, 8).expand(1, 1, 8, 8)
    >>> bent = StAdv(eps=0.5, steps=9)(lambda x: x.mean(2)[:, 0], x, torch.tensor([7]))
    >>> bool((bent[..., 6] > x[..., 6]).all()), bool((bent - x).abs().max() <= 0.5 / 7 + 1e-6)
    (True, True)
    """

    eps: float
    norm: str = "flow"
    steps: int = 100
    step_size: float | None = None
    """Adam's, in pixels. None: 2.5·eps/steps, at least eps/20."""
    smoothness: float = 0.05

    def __post_init__(self) -> None:
        if self.norm != "flow":
            raise ConfigError(f"norm={self.norm!r}: StAdv moves pixels, so its norm is flow and eps is in pixels")
        check_size("eps", self.eps)
        check_size("smoothness", self.smoothness)
        if self.step_size is not None:
            check_size("step_size", self.step_size)
        check_rounds("StAdv", steps=self.steps)

    def __call__(
        self,
        model: Model,
        images: Tensor,
        labels: Tensor,
        *,
        generator: torch.Generator | None = None,
        loss: Loss | None = None,
    ) -> Tensor:
        """Adversarial images; the contract is ``attacks.base.Attack``'s, ``eps`` bounding the flow.

        Nothing is drawn from ``generator``.
        """
        check_batch(images, labels)
        if len(images) == 0 or not self.eps:
            return images.detach().clone()
        with torch.inference_mode(False), torch.no_grad():
            clean = wide(images.detach().clone())
            found, left = clean.clone(), torch.arange(len(clean), device=clean.device)
            flow = clean.new_zeros(len(clean), 2, *clean.shape[2:])
            best = clean.new_full((len(clean),), -torch.inf)
            adam = Adam(flow)
            step_size = max(2.5 / self.steps, 0.05) * self.eps if self.step_size is None else self.step_size
            for _ in range(self.steps + 1):
                x = bend(clean[left], flow)
                gradient, logits = input_gradient(model, x, labels[left], images.dtype, loss or margin)
                height = values(loss or margin, logits, labels[left])
                better = height > best[left]
                best[left] = torch.where(better, height, best[left])
                found[left] = torch.where(per_image(better, x), x, found[left])
                ahead = adam.way(self._slope(clean[left], flow, gradient))
                if loss is None and (out := confirmed(model, x, logits, labels[left], images.dtype)).any():
                    found[left[out]] = x[out]
                    left, flow, ahead = (part[~out] for part in (left, flow, ahead))
                    adam.keep(~out)
                if not len(left):
                    break
                flow = (flow + step_size * ahead).clamp(-self.eps, self.eps)
            return found.to(images.dtype)

    def _slope(self, clean: Tensor, flow: Tensor, gradient: Tensor) -> Tensor:
        """The gradient of the objective in the flow, where that of the loss in x′ is ``gradient``."""
        with torch.enable_grad():
            inputs = flow.detach().requires_grad_()
            value = (bend(clean, inputs) * gradient).sum() - self.smoothness * roughness(inputs).sum()
            return torch.autograd.grad(value, inputs)[0]


def bend(images: Tensor, flow: Tensor) -> Tensor:
    """Images (N, C, H, W) whose pixel (i, j) is taken from (i + flow₀, j + flow₁), (N, 2, H, W), bilinearly.

    >>> x = torch.rand(1, 3, 4, 5)
    >>> torch.allclose(bend(x, torch.ones(1, 2, 4, 5))[..., :-1, :-1], x[..., 1:, 1:], atol=1e-6)
    True
    """
    height, width = images.shape[2:]
    rows = torch.arange(height, device=flow.device, dtype=flow.dtype)[:, None] + flow[:, 0]
    columns = torch.arange(width, device=flow.device, dtype=flow.dtype) + flow[:, 1]
    # grid_sample counts from −1 to 1 along each axis, columns first.
    places = torch.stack([2 * columns / max(width - 1, 1) - 1, 2 * rows / max(height - 1, 1) - 1], 3)
    return grid_sample(images, places, mode="bilinear", padding_mode="border", align_corners=True).clamp(0, 1)


def roughness(flow: Tensor) -> Tensor:
    """Σ √(‖f_p − f_q‖² + 1e-8) over the pairs p, q of neighbours below and beside each other, (N,): the paper's eq. 4.

    >>> round(float(roughness(torch.zeros(1, 2, 2, 2))), 6)
    0.0004
    """
    pairs = (flow[:, :, 1:] - flow[:, :, :-1], flow[:, :, :, 1:] - flow[:, :, :, :-1])
    return sum((pair.square().sum(1) + 1e-8).sqrt().flatten(1).sum(1) for pair in pairs)  # type: ignore[return-value]
