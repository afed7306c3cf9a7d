"""A pretrained network with images it knows, and a small random one."""

import pytest
import torch

from raypurify.nets.cifar_resnet import load_cifar_resnet


@pytest.fixture(scope="module")
def victim(data_file):
    return load_cifar_resnet(data_file("cifar10-resnet/resnet20-12fca82f.th"))


@pytest.fixture(scope="module")
def batch(cifar_images):
    return cifar_images("train-4.parquet", 64)


@pytest.fixture
def toy():
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Flatten(), torch.nn.LazyLinear(4)
    ).eval()
    images, labels = torch.rand(6, 3, 8, 8), torch.arange(6) % 4
    network(images)
    return network, images, labels


@pytest.fixture
def linear():
    """A linear classifier, images in the middle of the range, the labels it gives, and its weight (4, 27)."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 27, generator=generator)
    images = 0.4 + 0.2 * torch.rand(20, 3, 3, 3, generator=generator)

    def network(x):
        return x.flatten(1) @ weight.T

    return network, images, network(images).argmax(1), weight
