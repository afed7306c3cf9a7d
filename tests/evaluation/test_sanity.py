"""The checks pass an honest classifier, and catch those that only seem robust."""

import pytest
import torch
from torch import Tensor, nn

from raypurify.attacks import BIM
from raypurify.evaluation import checked
from raypurify.evaluation.batches import GridBatch
from raypurify.evaluation.checked import compute_checks
from raypurify.evaluation.grid import load_grid
from raypurify.evaluation.judged import Subject
from raypurify.evaluation.plan import CheckName
from raypurify.evaluation.random_search import check_random_search
from raypurify.evaluation.sanity import (
    EPS,
    check_attacks,
    check_convergence,
    check_gradients,
    check_uphill,
    computes_in_double,
)
from raypurify.evaluation.subjects import Subjects, predict
from raypurify.nets import WideResNet
from raypurify.nets.bottleneck_resnet import BottleneckResNet
from raypurify.nets.cifar_resnet import load_cifar_resnet
from raypurify.nets.cnn6 import CNN6
from raypurify.nets.vgg import VGG16


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
    checks = check_attacks(Subject(network(data_file)), images, labels, other)
    assert len(checks) == 9
    assert all(check.passed for check in checks), [check for check in checks if not check.passed]


def test_vanishing_gradients_are_caught(cifar_images, data_file):
    images, labels = cifar_images("test.parquet", 8)
    check = check_gradients(Masked(network(data_file)), images, labels)
    assert not check.passed
    assert check_gradients(network(data_file), images, labels).passed


def test_gradients_of_another_function_are_caught(cifar_images, data_file):
    images, labels = cifar_images("test.parquet", 8)
    assert not check_gradients(Stairs(network(data_file)), images, labels).passed


class Casting(Masked):
    """A classifier that casts what a part of it gives, and so cannot be turned to double precision."""

    def __init__(self, network: nn.Module):
        super().__init__(network)
        self.head = nn.Linear(10, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.network(images).float())


def test_gradients_of_what_knows_single_precision_alone_need_to_point_uphill(cifar_images, data_file):
    images, labels = cifar_images("test.parquet", 8)
    names = [check.name for check in check_attacks(Subject(Casting(network(data_file))), images, labels)]
    assert "gradients are finite and point uphill" in names


OURS = [WideResNet(10, 1, 10), VGG16(10), BottleneckResNet(11), CNN6()]


@pytest.mark.parametrize("net", OURS, ids=lambda net: type(net).__name__)
def test_our_own_networks_are_held_against_differences_in_double_precision(net):
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert computes_in_double(net.eval(), images)
    with torch.autocast("cpu", torch.bfloat16):
        assert net.latents(images).dtype == torch.float32


def test_a_loss_that_still_rises_is_caught(cifar_images, data_file):
    images, labels = cifar_images("test.parquet", 8)
    assert check_convergence(Subject(network(data_file)), images, labels).passed
    assert not check_convergence(Subject(network(data_file)), images, labels, steps=5).passed


@pytest.mark.parametrize(("factor", "finds"), [(1, True), (-1, False), (0, False), (float("nan"), False)])
def test_surrogates_need_to_point_uphill(cifar_images, data_file, factor, finds):
    images, labels = cifar_images("test.parquet", 8)
    classifier = network(data_file)

    def model(x: Tensor) -> Tensor:
        # The value of x, and its gradient times a factor.
        return classifier(x.detach() + factor * (x - x.detach()))

    assert check_uphill(Subject(model), images, labels).passed == finds


@pytest.mark.parametrize(("factor", "missed"), [(1, False), (-1, True), (0, True)])
def test_images_that_chance_finds_and_gradients_miss_are_caught(factor, missed):
    """A plane so near that half of all directions cross it, its gradient right, reversed, or lost."""
    normal = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))
    images, labels = torch.full((6, 3, 8, 8), 0.5) + 1e-4 * normal.sign(), torch.zeros(6, dtype=torch.long)

    def model(x: Tensor) -> Tensor:
        x = x.detach() + factor * (x - x.detach())
        height = ((x - 0.5) * normal).flatten(1).sum(1)
        return torch.stack([height, torch.zeros_like(height)], 1)

    subject, attack = Subject(model), BIM(eps=EPS, steps=5)
    assert (subject.predict(images) == labels).all()
    right = subject.predict(attack(model, images, labels)) == labels
    check = check_random_search(subject, images, labels, EPS, [right], points=20)
    assert check.passed != missed
    assert check.figures.startswith("6 of 6" if missed else "0 of 0")
    # By every draw of a random defence: right under gradients, and wrong where chance leads.
    lucky = torch.stack([right, ~right])
    assert check_random_search(subject, images, labels, EPS, [right, lucky], points=20).figures.startswith("0 of 0")


def test_an_iterated_attack_that_is_weaker_than_one_step_is_caught():
    """Uphill from where an image stands, and everywhere else the gradient of another function."""
    images, labels = torch.full((4, 3, 8, 8), 0.5), torch.zeros(4, dtype=torch.long)

    def model(x: Tensor) -> Tensor:
        there = (x.detach() == 0.5).flatten(1).all(1).float()[:, None, None, None]
        x = x.detach() + (2 * there - 1) * (x - x.detach())
        height = (x - 0.5 + 1e-3).flatten(1).sum(1)
        return torch.stack([height, torch.zeros_like(height)], 1)

    found = {check.name: check for check in check_attacks(Subject(model), images, labels)}
    weaker = found["many steps are no weaker than one"]
    assert not weaker.passed
    assert weaker.figures.startswith("BIM 1.000, MIM 1.000, PGD 1.000, FGSM 0.000")


def test_a_purifier_is_checked_by_what_it_answers_in_truth(cifar_images, data_file, monkeypatch):
    images, labels = cifar_images("test.parquet", 4)
    batch = GridBatch(tuple(map(str, range(4))), labels.numpy(), (images * 255).round().to(torch.uint8).numpy())
    weights = str(data_file("cifar10-resnet/resnet20-12fca82f.th"))
    grid = load_grid(
        {
            "images": {"paths": "unread"},
            "classifiers": {"net": {"kind": "cifar-resnet", "path": weights}},
            "purifiers": {"low-pass": {"purifier": "low_pass", "tikhonov": 0.1}},
        }
    )
    seen = []
    monkeypatch.setattr(checked, "predict", lambda net, x: (seen.append(x), predict(net, x))[1])
    checks = compute_checks(Subjects(grid), CheckName("net", "low-pass", "solver"), batch)
    assert all(torch.allclose(255 * x, (255 * x).round(), atol=1e-3) for x in seen)
    assert all("n = 4, one image of slack" in check.figures for check in checks[:7])
    assert [check.name for check in checks][5:8] == [
        "the white box is no weaker than a transfer",
        "random search finds nothing that gradients miss",
        "gradients are finite and point uphill",
    ]
    assert all(check.passed for check in checks), [check for check in checks if not check.passed]

    def deaf(x: Tensor) -> Tensor:
        return labels.to(x.device)

    # A model that every step breaks, before a defence that does not care.
    found = {check.name: check.passed for check in check_attacks(Subject(nn.Flatten(), deaf), images, labels)}
    assert not found["an unbounded attack leaves nothing"]
