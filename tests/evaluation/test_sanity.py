"""The checks pass an honest classifier, and catch those that only seem robust."""

from torch import Tensor, nn

from raypurify.evaluation.sanity import check_attacks, check_convergence, check_gradients
from raypurify.nets.cifar_resnet import load_cifar_resnet


class Masked(nn.Module):
    """A classifier whose logits are so large that the softmax saturates, as distillation does: gradients vanish."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return 1e4 * self.network(images)


class Stairs(Masked):
    """A classifier behind coarse quantisation: gradients are not those of what it computes."""

    def forward(self, images: Tensor) -> Tensor:
        steps = (images * 16).round() / 16
        return self.network(images + (steps - images).detach())


def network(data_file) -> nn.Module:
    return load_cifar_resnet(data_file("cifar10-resnet/resnet20-12fca82f.th"))


def test_an_undefended_classifier_passes_all_checks(cifar_images, data_file):
    images, labels = cifar_images("test.parquet", 10)
    other = load_cifar_resnet(data_file("cifar10-resnet/resnet32-d509ac18.th"))
    checks = check_attacks(network(data_file), images, labels, other)
    assert len(checks) == 8
    assert all(check.passed for check in checks), [check for check in checks if not check.passed]


def test_vanishing_gradients_are_caught(cifar_images, data_file):
    images, labels = cifar_images("test.parquet", 8)
    check = check_gradients(Masked(network(data_file)), images, labels)
    assert not check.passed
    assert check_gradients(network(data_file), images, labels).passed


def test_gradients_of_another_function_are_caught(cifar_images, data_file):
    images, labels = cifar_images("test.parquet", 8)
    assert not check_gradients(Stairs(network(data_file)), images, labels).passed


def test_a_loss_that_still_rises_is_caught(cifar_images, data_file):
    images, labels = cifar_images("test.parquet", 8)
    assert check_convergence(network(data_file), images, labels).passed
    assert not check_convergence(network(data_file), images, labels, steps=5).passed
