"""What the layers of a classifier answer to images: class activation maps, and the activation of each layer."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, nn.GroupNorm)
LAYERS = (nn.Conv2d, *NORMS)


def class_activation_maps(network: nn.Module, images: Tensor, classes: Tensor) -> Tensor | None:
    """The class activation map of each image for one class, (N, H, W) in [0, 1], as large as the images.

    M_c = Σ_k w_k^c f_k over the channels f_k of the last convolution's features, w_k^c being the mean over positions of
    ∂y_c/∂f_k (Selvaraju et al., ICCV 2017, eq. 1), y_c the logit of ``classes`` (N,). Where the network averages these
    features and has one linear layer after that, it is the map of Zhou et al. (CVPR 2016, eq. 2) over the number of
    positions. What speaks against the class is cut to 0, the largest value becomes 1, an empty map stays 0; between
    positions it is interpolated.

    The features are the last that a layer gives as (N, C, h, w) with more than one position. None where there are none,
    as in a network without convolutions or one whose layers cannot be seen (TorchScript), where tokens come after
    them (a vision transformer), and where no gradient comes back to them.

    >>> head = nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> class_activation_maps(head, torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 0, 1])).shape
    torch.Size([4, 8, 8])
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
        features = found[0]
        scores = logits.gather(1, classes[:, None]).sum()
        try:
            (slope,) = torch.autograd.grad(scores, features, allow_unused=True)
        except RuntimeError:
            # What comes after has overwritten what the gradient needs.
            slope = None
    if slope is None:
        return None
    maps = (slope.mean((2, 3), keepdim=True) * features.detach()).sum(1, keepdim=True).clamp(min=0)
    maps = F.interpolate(maps.float(), images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    return maps / maps.flatten(1).amax(1).clamp(min=torch.finfo(maps.dtype).tiny)[:, None, None]


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
