"""Class activation maps (Zhou et al., CVPR 2016): which places of an image speak for a class."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raypurify.errors import ConfigError


def class_activation_maps(network: nn.Module, images: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Class activation maps (N, k, H, W) of the k most likely classes of each image, and these classes (N, k).

        M_c(x, y) = Σ_m w_m f_m(x, y),   w_m = mean over places of ∂ logit_c / ∂ f_m

    for the last feature maps f of the network that have more than one place, enlarged bilinearly to the images' size.
    Where a network averages f and ends with a linear layer, w is that layer's row of the class over the number of
    places: Zhou et al.'s map (up to that constant). Elsewhere it is Grad-CAM's (Selvaraju et al. 2017) without its
    ReLU, so that any classifier will do.

    ``network`` gives logits (N, classes) of images (N, 3, H, W) in [0, 1]; k is ``count``, or the number of classes if
    that is less. No gradient reaches images or weights. Raises ConfigError for a network without feature maps.

    >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    >>> class_activation_maps(network, torch.rand(2, 3, 8, 8), count=3)[0].shape
    torch.Size([2, 3, 8, 8])
    """
    last = _last_map(network, images[:1])
    held: list[Tensor] = []

    def cut(module: nn.Module, given: Any, features: Tensor) -> Tensor:
        held.append(features.detach().requires_grad_())
        # A copy, because what follows may work in place.
        return held[0].clone()

    with torch.enable_grad(), _hooked(last, cut):
        logits = network(images.detach())
        likely, classes = logits.topk(min(count, logits.shape[1]), dim=1)
        weights = [
            torch.autograd.grad(one.sum(), held[0], retain_graph=True)[0].mean((2, 3)) for one in likely.unbind(1)
        ]
    features = held[0].detach()
    maps = torch.einsum("nkm,nmhw->nkhw", torch.stack(weights, 1), features)
    return F.interpolate(maps.float(), images.shape[-2:], mode="bilinear", align_corners=False), classes


def robust_activation_map(network: nn.Module, images: Tensor, count: int = 5) -> Tensor:
    """The robust activation map of each image, (N, H, W) in [0, 1] (Prakash et al., CVPR 2018).

        Σᵢ M_{cᵢ} / 2ⁱ,   c₁, c₂, … the most likely classes, in that order,

    stretched to [0, 1]; 0 everywhere where it is even. An attack changes which class comes first more easily than which
    classes are among the first ``count``, and these often share their places.

    >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    >>> robust_activation_map(network, torch.rand(2, 3, 8, 8)).amax((1, 2))
    tensor([1., 1.])
    """
    maps, classes = class_activation_maps(network, images, count)
    weights = 0.5 ** torch.arange(1, classes.shape[1] + 1, device=maps.device)
    total = torch.einsum("k,nkhw->nhw", weights, maps)
    total = total - total.amin((1, 2), keepdim=True)
    most = total.amax((1, 2), keepdim=True)
    return torch.where(most > 0, total / torch.where(most > 0, most, 1), 0)


def _last_map(network: nn.Module, image: Tensor) -> nn.Module:
    """The module that gives the last feature maps (1, m, h, w) of more than one place."""
    found: list[nn.Module] = []

    def note(module: nn.Module, given: Any, out: Any) -> None:
        if isinstance(out, Tensor) and out.ndim == 4 and out.shape[-2:].numel() > 1:
            found.append(module)

    hooks = [module.register_forward_hook(note) for module in network.modules()]
    try:
        with torch.no_grad():
            network(image)
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        raise ConfigError(
            f"a {type(network).__name__} has no feature maps of images of {tuple(image.shape[-2:])} pixels: "
            "give another classifier, one with convolutions"
        )
    return found[-1]


class _hooked:
    """Within it, ``module`` gives what ``change`` makes of its output."""

    def __init__(self, module: nn.Module, change: Callable):
        self.module, self.change = module, change

    def __enter__(self) -> None:
        self.hook = self.module.register_forward_hook(self.change)

    def __exit__(self, *error: object) -> None:
        self.hook.remove()
