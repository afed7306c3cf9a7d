"""What the layers of a classifier answer to images: class activation maps, and the activation of each layer."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raypurify.errors import ConfigError

NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, nn.GroupNorm)
LAYERS = (nn.Conv2d, *NORMS)


def class_activation_maps(network: nn.Module, images: Tensor, classes: Tensor) -> Tensor | None:
    """The class activation map of each image for one class, (N, H, W) in [0, 1], as large as the images.

    M_c of :func:`class_maps` for the ``classes`` (N,). What speaks against the class is cut to 0, the largest value
    becomes 1, an empty map stays 0. None where the network has no features that say where.

    >>> head = nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> class_activation_maps(head, torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 0, 1])).shape
    torch.Size([4, 8, 8])
    """
    found = class_maps(network, images, lambda logits: classes[:, None])
    if found is None:
        return None
    maps = _enlarged(found[0].clamp(min=0), images)[:, 0]
    return maps / maps.flatten(1).amax(1).clamp(min=torch.finfo(maps.dtype).tiny)[:, None, None]


def robust_activation_map(network: nn.Module, images: Tensor, count: int = 5) -> Tensor:
    """The robust activation map of each image, (N, H, W) in [0, 1] (Prakash et al., CVPR 2018, section 5).

        Σᵢ M_{cᵢ} / 2ⁱ,   c₁, c₂, … the most likely classes, in that order,

    with M_c of :func:`class_maps`, stretched to [0, 1]; 0 everywhere where it is even. An attack changes which class
    comes first more easily than which classes are among the first ``count``, and these often share their places.
    Raises ConfigError for a network that has no features that say where.

    >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    >>> robust_activation_map(network, torch.rand(2, 3, 8, 8)).amax((1, 2))
    tensor([1., 1.])
    """
    found = class_maps(network, images, lambda logits: logits.topk(min(count, logits.shape[1]), dim=1).indices)
    if found is None:
        raise ConfigError(
            f"a {type(network).__name__} has no feature maps of images of {tuple(images.shape[-2:])} pixels: "
            "give another classifier, one with convolutions"
        )
    maps, classes = _enlarged(found[0], images), found[1]
    weights = 0.5 ** torch.arange(1, classes.shape[1] + 1, device=maps.device)
    total = torch.einsum("k,nkhw->nhw", weights, maps)
    total = total - total.amin((1, 2), keepdim=True)
    most = total.amax((1, 2), keepdim=True)
    return torch.where(most > 0, total / torch.where(most > 0, most, 1), 0)


def class_maps(network: nn.Module, images: Tensor, choose: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor] | None:
    """Class activation maps (N, k, h, w) of k classes of each image, as large as the features are, and these classes
    (N, k), which ``choose(logits)`` gives.

    M_c = Σ_m w_m^c f_m over the channels f_m of the last convolution's features, w_m^c being the mean over positions of
    ∂y_c/∂f_m (Selvaraju et al., ICCV 2017, eq. 1), y_c the logit of class c. Where the network averages these features
    and has one linear layer after that, it is the map of Zhou et al. (CVPR 2016, eq. 2) over the number of positions.
    No gradient reaches images or weights.

    The features are the last that a layer gives as (N, C, h, w) with more than one position. None where there are none,
    as in a network without convolutions or one whose layers cannot be seen (TorchScript), where tokens come after
    them (a vision transformer), and where no gradient comes back to them.

    >>> head = nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> class_maps(head, torch.rand(4, 3, 8, 8), lambda logits: logits.topk(2).indices)[0].shape
    torch.Size([4, 2, 8, 8])
    """
    found: list[Tensor] = []

    def keep(module: nn.Module, given: Any, answer: Any) -> None:
        if isinstance(answer, Tensor) and answer.requires_grad:
            if answer.ndim == 4 and answer[0, 0].numel() > 1:
                found[:] = [answer]
            elif answer.ndim == 3:
                found.clear()

    with torch.enable_grad():
        logits = _watched(network, images.detach().clone().requires_grad_(True), keep)
        if not found:
            return None
        features, classes = found[0], choose(logits.detach())
        scores = logits.gather(1, classes).sum(0)
        try:
            slopes = [torch.autograd.grad(one, features, retain_graph=True, allow_unused=True)[0] for one in scores]
        except RuntimeError:
            # What comes after has overwritten what the gradient needs.
            return None
    if any(slope is None for slope in slopes):
        return None
    weights = torch.stack([slope.mean((2, 3)) for slope in slopes], 1)
    return torch.einsum("nkm,nmhw->nkhw", weights, features.detach()).float(), classes


def _enlarged(maps: Tensor, images: Tensor) -> Tensor:
    return F.interpolate(maps, images.shape[-2:], mode="bilinear", align_corners=False)


def layer_activations(network: nn.Module, images: Tensor, threshold: float = 0.0) -> Tensor:
    """The total activation of each layer for each image, (N, layers), in the order in which the layers are asked.

    V_l = Σ p_i over those detectors i of layer l with p_i > γ (Zhang et al., RegionSparse, eq. 7), where p_i is the
    largest value of the detector's feature map and γ the ``threshold``. A layer is a convolution, with the
    normalisation that takes its answer; one that takes the sum of several is a layer of its own. The values are those
    before the rectifier, which changes none that is above γ ≥ 0. A network whose layers cannot be seen has none.

    >>> layer = nn.Conv2d(3, 2, 1, bias=False)
    >>> layer.weight.data = torch.tensor([[1.0, 0, 0], [-1, 0, 0]])[:, :, None, None]
    >>> layer_activations(layer, torch.full((1, 3, 4, 4), 0.5))
    tensor([[0.5000]])
    """
    totals: list[Tensor] = []
    last: list[Tensor] = []

    def add(module: nn.Module, given: Any, answer: Any) -> None:
        if not isinstance(module, LAYERS) or not isinstance(answer, Tensor) or answer.ndim != 4:
            return
        if isinstance(module, NORMS) and last and given[0] is last[0]:
            totals.pop()
        peaks = answer.detach().flatten(2).amax(2).float()
        totals.append(torch.where(peaks > threshold, peaks, 0).sum(1))
        last[:] = [answer]

    with torch.no_grad():
        _watched(network, images, add)
    return torch.stack(totals, 1) if totals else images.new_empty(len(images), 0)


def _watched(network: nn.Module, images: Tensor, hook: Any) -> Tensor:
    """The logits of a network, ``hook`` being told of what each of its modules gives."""
    # Into what TorchScript has compiled nobody can look.
    seen = [module for module in network.modules() if not isinstance(module, torch.jit.ScriptModule)]
    handles = [module.register_forward_hook(hook) for module in seen]
    try:
        return network(images)
    finally:
        for handle in handles:
            handle.remove()
