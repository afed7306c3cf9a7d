"""What a classifier's layers answer, against networks small enough to compute by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from raypurify.nets import WideResNet
from raypurify.nets.activations import class_activation_maps, layer_activations
from raypurify.nets.cifar_resnet import CifarResNet
from raypurify.nets.vgg import VGG16


class Tokens(nn.Module):
    """Patches as tokens, which only then become logits, as in a vision transformer."""

    def __init__(self):
        super().__init__()
        self.patches, self.norm, self.head = nn.Conv2d(3, 4, 4, 4), nn.LayerNorm(4), nn.Linear(4, 2)

    def forward(self, images):
        return self.head(self.norm(self.patches(images).flatten(2).transpose(1, 2)).mean(1))


class Overwriting(nn.Module):
    """Its sigmoid is overwritten, which autograd needs to get back to the convolution."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)

    def forward(self, images):
        squashed = self.conv(images).sigmoid()
        return squashed.mul_(2).sum((2, 3))


@pytest.fixture
def pooled():
    """Two features, red and green minus blue, averaged; the classes weigh them (2, 1) and (-1, 3)."""
    conv, head = nn.Conv2d(3, 2, 1, bias=False), nn.Linear(2, 2)
    conv.weight.data = torch.tensor([[1.0, 0, 0], [0, 1, -1]])[:, :, None, None]
    head.weight.data = torch.tensor([[2.0, 1], [-1, 3]])
    return nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).eval().requires_grad_(False)


def test_a_map_is_the_weighted_sum_of_the_features(pooled):
    image = torch.zeros(3, 2, 2)
    image[0] = torch.tensor([[0.4, 0.0], [0.2, 0.0]])
    image[1] = torch.tensor([[0.0, 0.6], [0.3, 0.0]])
    image[2] = torch.tensor([[0.0, 0.0], [0.1, 0.5]])
    # Features: red ((0.4, 0), (0.2, 0)); green − blue, rectified, ((0, 0.6), (0.2, 0)).
    maps = class_activation_maps(pooled, torch.stack([image, image]), torch.tensor([0, 1]))
    first = torch.tensor([[0.8, 0.6], [0.6, 0.0]]) / 0.8
    # −0.4 and 3 · 0.6; −0.2 + 0.6: what speaks against the class is cut.
    second = torch.tensor([[0.0, 1.8], [0.4, 0.0]]) / 1.8
    torch.testing.assert_close(maps, torch.stack([first, second]))


def test_a_map_without_anything_for_the_class_is_empty(pooled):
    red = torch.zeros(1, 3, 4, 4)
    red[:, 0] = 0.5
    assert class_activation_maps(pooled, red, torch.tensor([1])).count_nonzero() == 0


@pytest.mark.parametrize("make", [lambda: CifarResNet(8), lambda: WideResNet(10, 1, 10)], ids=["ResNet", "WRN"])
def test_of_networks_that_average_it_is_the_map_of_zhou(make):
    torch.manual_seed(0)
    network = make().eval().requires_grad_(False)
    images, classes = torch.rand(3, 3, 32, 32), torch.tensor([4, 0, 7])
    features = []
    last = network.layer3 if isinstance(network, CifarResNet) else network.features
    with last.register_forward_hook(lambda module, given, answer: features.append(answer)):
        network(images)
    weights = (network.linear if isinstance(network, CifarResNet) else network.head).weight[classes]
    expected = torch.einsum("nk,nkhw->nhw", weights, features[0]).clamp(min=0)
    expected = nn.functional.interpolate(expected[:, None], (32, 32), mode="bilinear")[:, 0]
    found = class_activation_maps(network, images, classes)
    assert expected.amax((1, 2)).min() > 0
    torch.testing.assert_close(found, expected / expected.amax((1, 2), keepdim=True), rtol=1e-4, atol=1e-4)


def test_a_network_that_pools_all_positions_away_shows_those_before():
    network = VGG16().eval().requires_grad_(False)
    images = torch.rand(2, 3, 32, 32)
    maps = class_activation_maps(network, images, network(images).argmax(1))
    assert maps.shape == (2, 32, 32)
    assert layer_activations(network, images).shape == (2, 13)


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(48, 2)),
        torch.jit.script(nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten(), nn.Linear(32, 2))),
        nn.Sequential(nn.Conv2d(3, 2, 4), nn.Flatten()),
        Tokens(),
        Overwriting(),
    ],
    ids=["no convolution", "TorchScript", "one position", "tokens", "overwritten"],
)
def test_a_network_whose_features_cannot_be_seen_has_no_map(network):
    images = torch.rand(2, 3, 4, 4)
    assert class_activation_maps(network.eval(), images, torch.tensor([0, 1])) is None


def test_layers_are_summed_as_in_equation_7():
    torch.manual_seed(0)
    one, norm, two = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(5, 4, 3, bias=False)
    norm.running_mean, norm.running_var = torch.randn(5), torch.rand(5) + 0.5
    network = nn.Sequential(one, norm, nn.ReLU(inplace=True), two, nn.Flatten(), nn.Linear(16, 2)).eval()
    images = torch.rand(3, 3, 6, 6)
    with torch.no_grad():
        first = norm(one(images))
        second = two(first.relu())
    for threshold in (0.0, 0.4):
        expected = np.zeros((3, 2))
        for layer, answer in enumerate((first.numpy(), second.numpy())):
            peaks = answer.max((2, 3))
            expected[:, layer] = (np.where(peaks - threshold > 0, peaks, 0) * np.sign(peaks - threshold)).sum(1)
        np.testing.assert_allclose(layer_activations(network, images, threshold), expected, rtol=1e-5)
    assert not [hooks for module in network.modules() for hooks in module._forward_hooks]


def test_a_norm_of_a_sum_is_a_layer_of_its_own():
    # The stem with the first block's norm, its two convolutions, the first with a norm; of two further blocks the norm
    # of the sum before, the shortcut and the two convolutions; the last norm.
    assert layer_activations(WideResNet(10, 1, 10).eval(), torch.rand(1, 3, 32, 32)).shape[1] == 1 + 2 + 2 * 4 + 1


def test_layers_that_cannot_be_seen_are_none():
    assert layer_activations(nn.Flatten(), torch.rand(2, 3, 4, 4)).shape == (2, 0)
