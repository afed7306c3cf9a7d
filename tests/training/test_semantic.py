"""Semantic losses by hand, against finite differences, and what becomes of their centres."""

import pytest
import torch
from torch import nn

from raypurify.clusters import ClusterDistributions
from raypurify.supervision import OF_CLASSES, SupervisionSettings
from raypurify.training.semantic import SEMANTIC_LOSSES, Center, Contrastive, PrototypeConformity, Triplet
from raypurify.training.semantic.partners import partners

CLASSES, DIM = 4, 3
LABELS = torch.tensor([0, 1, 1, 3, 2, 0])


def made(name: str, **settings):
    torch.manual_seed(0)
    clusters = ClusterDistributions.fit(torch.randn(40, DIM), torch.arange(40) % CLASSES).to(dtype=torch.float64)
    return SEMANTIC_LOSSES[name](SupervisionSettings(**settings), CLASSES, DIM, clusters).double()


def drawn(count=6):
    return torch.randn(count, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", SEMANTIC_LOSSES)
def test_one_value_for_each_image_with_the_gradient_of_finite_differences(name):
    loss, features = made(name, push=0.7, margin=2.5), drawn().requires_grad_()
    assert loss(features, LABELS, LABELS).shape == LABELS.shape
    parts = [features, *loss.parameters()]

    def by_value(features, *centres):
        given = dict(zip(dict(loss.named_parameters()), centres))
        return torch.func.functional_call(loss, given, (features, LABELS, LABELS)).mean()

    assert torch.autograd.gradcheck(by_value, parts)


@pytest.mark.parametrize("push", [1e-4, 0.5, 1.0])
def test_prototype_conformity_is_equation_5_with_the_gradient_of_equation_6(push):
    loss, features = made("pcl", push=push), drawn().requires_grad_()
    w = loss.centres.detach()
    values = loss(features, LABELS)
    for f, y, value in zip(features.detach(), LABELS, values.tolist()):
        others = [((f - w[j]) ** 2).sum() + ((w[y] - w[j]) ** 2).sum() for j in range(CLASSES) if j != y]
        assert value == pytest.approx(float(((f - w[y]) ** 2).sum() - push * sum(others) / (CLASSES - 1)), abs=1e-9)
    (gradient,) = torch.autograd.grad(values.sum(), features)
    for f, y, found in zip(features.detach(), LABELS, gradient):
        away = sum(f - w[j] for j in range(CLASSES) if j != y) / (CLASSES - 1)
        torch.testing.assert_close(found, 2 * (f - w[y] - push * away))


def test_equation_5_as_printed_does_not_know_where_the_features_are():
    """With push 1 the squares of f cancel: the gradient is the same however far away."""
    loss = made("pcl", push=1.0)
    gradients = []
    for scale in (1, 1000):
        features = (scale * drawn()).requires_grad_()
        gradients.append(torch.autograd.grad(loss(features, LABELS).sum(), features)[0])
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("classes", [2, 10])
def test_centres_have_a_minimum_up_to_the_bound_alone(classes):
    """Of features that stay, classes of one size: push < (k − 1)/(3k − 1), as docs/decisions.md derives it."""
    bound = (classes - 1) / (3 * classes - 1)
    features, labels = drawn(8 * classes), torch.arange(8 * classes) % classes

    def least_curvature(push):
        loss = PrototypeConformity(classes, DIM, push).double()

        def of_centres(centres):
            return torch.func.functional_call(loss, {"centres": centres}, (features, labels)).mean()

        curvature = torch.autograd.functional.hessian(of_centres, loss.centres.detach())
        return float(torch.linalg.eigvalsh(curvature.reshape(classes * DIM, -1))[0])

    assert least_curvature(0.9 * bound) > 1e-3
    assert least_curvature(bound) == pytest.approx(0, abs=1e-9)
    assert least_curvature(1.1 * bound) < -1e-3


def test_centres_of_the_center_loss_step_as_equations_12_and_13():
    loss, features = made("center"), drawn()
    before, alpha = loss.centres.detach().clone(), 0.3
    values = loss(features, LABELS)
    torch.testing.assert_close(values, ((features - before[LABELS]) ** 2).sum(1) / 2)
    values.mean().backward()
    loss.settle(together=False)
    torch.optim.SGD(loss.parameters(), lr=alpha).step()
    for j in range(CLASSES):
        own = features[j == LABELS]
        step = sum(before[j] - f for f in own) / (1 + len(own)) if len(own) else torch.zeros(DIM).double()
        torch.testing.assert_close(loss.centres.detach()[j], before[j] - alpha * step)


def test_a_class_that_a_batch_lacks_keeps_its_center():
    loss, labels = made("center"), torch.zeros(6, dtype=torch.int64)
    before = loss.centres.detach().clone()
    loss(drawn(), labels).mean().backward()
    loss.settle(together=False)
    torch.optim.SGD(loss.parameters(), lr=0.5).step()
    assert torch.equal(loss.centres[1:], before[1:])
    assert not torch.equal(loss.centres[0], before[0])


def test_partners_are_the_next_of_the_own_class_and_of_another():
    labels = torch.tensor([0, 0, 1, 2, 1, 0])
    near, paired = partners(labels, same=True)
    assert near.tolist() == [1, 5, 4, 3, 2, 0]
    assert paired.tolist() == [True, True, True, False, True, True]
    far, parted = partners(labels, same=False)
    assert far.tolist() == [2, 2, 3, 4, 5, 2]
    assert parted.all()


def test_contrastive_and_triplet_are_equations_14_and_15():
    features, margin = drawn(), 2.5
    (near, paired), (far, _) = partners(LABELS, True), partners(LABELS, False)
    contrastive, triplet = Contrastive(margin)(features, LABELS), Triplet(margin)(features, LABELS)
    assert paired.tolist() == [True, True, True, False, False, True]
    for i, f in enumerate(features):
        own, other = float((f - features[near[i]]).norm()), float((f - features[far[i]]).norm())
        pairs = [paired[i] * own**2 / 2, max(0.0, margin - other) ** 2 / 2]
        assert float(contrastive[i]) == pytest.approx(sum(map(float, pairs)) / 2)
        assert float(triplet[i]) == pytest.approx(max(0.0, margin + own**2 - other**2) if paired[i] else 0.0)


@pytest.mark.parametrize("labels", [[1], [1, 1], [0, 1]])
@pytest.mark.parametrize("name", OF_CLASSES)
def test_batches_without_partners_and_equal_features_have_finite_gradients(name, labels):
    loss, features = made(name), torch.zeros(len(labels), DIM, dtype=torch.float64).requires_grad_()
    loss(features, torch.tensor(labels)).mean().backward()
    assert features.grad.isfinite().all()


@pytest.mark.parametrize("name", OF_CLASSES)
def test_descent_brings_classes_together_and_apart(name):
    """Of features that are free: the spread within classes falls against that between their means."""
    loss = made(name, push=0.1, margin=4.0)
    features, labels = nn.Parameter(drawn(32)), torch.arange(32) % CLASSES
    groups = [{"params": [features], "lr": 8.0}, *({"params": [centre]} for centre in loss.parameters())]
    optimizer = torch.optim.SGD(groups, lr=0.5)

    def spread():
        means = torch.stack([features.detach()[labels == j].mean(0) for j in range(CLASSES)])
        return float((features.detach() - means[labels]).norm() / (means - means.mean(0)).norm())

    before = spread()
    for _ in range(40):
        order = torch.randperm(32)
        optimizer.zero_grad()
        loss(features[order], labels[order]).mean().backward()
        loss.settle(together=False)
        optimizer.step()
    assert spread() < 0.5 * before


def test_losses_with_centres_have_one_for_each_class():
    assert [type(made(name)) for name in ("pcl", "center")] == [PrototypeConformity, Center]
    assert {name: len(list(made(name).parameters())) for name in SEMANTIC_LOSSES} == {
        "mahalanobis": 0,
        "pcl": 1,
        "center": 1,
        "contrastive": 0,
        "triplet": 0,
    }
