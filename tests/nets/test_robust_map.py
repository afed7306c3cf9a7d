"""Class activation maps against their formula, and the robust map of several classes."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from raypurify.errors import ConfigError
from raypurify.nets.activations import class_maps, robust_activation_map
from raypurify.nets.cifar_resnet import CifarResNet


@pytest.fixture
def network():
    torch.manual_seed(0)
    return CifarResNet(8).eval().requires_grad_(False)


@pytest.fixture
def images():
    return torch.rand(3, 3, 24, 32, generator=torch.Generator().manual_seed(1))


def test_maps_weigh_the_last_features_by_the_head(network, images):
    maps, classes = class_maps(network, images, lambda logits: logits.topk(4).indices)
    assert torch.equal(classes, network(images).topk(4).indices)
    hidden = F.relu(network.bn1(network.conv1((images - network.mean) / network.std)))
    features = network.layer3(network.layer2(network.layer1(hidden)))
    assert features.shape[-2:] == (6, 8)
    small = torch.einsum("nkm,nmhw->nkhw", network.linear.weight[classes] / 48, features)
    torch.testing.assert_close(maps, small)


def test_the_robust_map_halves_the_weight_from_class_to_class(network, images):
    maps, _ = class_maps(network, images, lambda logits: logits.topk(3).indices)
    maps = F.interpolate(maps, (24, 32), mode="bilinear")
    total = maps[:, 0] / 2 + maps[:, 1] / 4 + maps[:, 2] / 8
    least, most = total.amin((1, 2), keepdim=True), total.amax((1, 2), keepdim=True)
    found = robust_activation_map(network, images, count=3)
    torch.testing.assert_close(found, (total - least) / (most - least))
    assert robust_activation_map(network, images, count=99).shape == (3, 24, 32)


def test_what_a_class_rests_on_is_where_the_map_is_high():
    """A network whose only feature is brightness looks at the bright part of an image."""
    network = nn.Sequential(nn.Conv2d(3, 1, 1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network.append(nn.Linear(1, 2, bias=False))
    for layer, value in ((network[0].weight, 1.0), (network[0].bias, 0.0)):
        nn.init.constant_(layer, value)
    network[-1].weight.data = torch.tensor([[1.0], [-1.0]])
    image = torch.zeros(1, 3, 8, 8)
    image[:, :, 2:5, 1:4] = 1
    assert torch.equal(robust_activation_map(network, image, count=1)[0], image[0, 0])


def test_even_maps_spare_nothing(network):
    constant = nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert not robust_activation_map(constant, torch.full((2, 3, 6, 6), 0.5)).any()


def test_neither_hooks_nor_gradients_stay_behind(images):
    network = CifarResNet(8).eval()
    given = images.clone().requires_grad_()
    found = robust_activation_map(network, given)
    assert not found.requires_grad
    assert given.grad is None
    assert all(weight.grad is None for weight in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())


def test_networks_without_feature_maps_are_named():
    with pytest.raises(ConfigError, match=r"a Sequential has no feature maps of images of .6, 6. pixels: give another"):
        robust_activation_map(nn.Sequential(nn.Flatten(), nn.Linear(108, 2)), torch.rand(1, 3, 6, 6))
