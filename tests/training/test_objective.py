"""The objective of one batch by hand, and what the inner maximisation does."""

import copy
import math
from contextlib import nullcontext

import pytest
import torch
from planted_images import cut, planted
from torch.nn import functional as F

from raypurify.attacks.budget import size
from raypurify.attacks.tpgd import divergence
from raypurify.clusters import ClusterDistributions
from raypurify.config import AttackSettings, RobustTrainingSettings, TrainingSettings
from raypurify.errors import ConfigError
from raypurify.nets import WideResNet
from raypurify.training import Semantic, robust, semantic_of, trades_loss, train_epochs
from raypurify.training.step import inner_attack
from raypurify.training.supervision import to_clusters

CLEAN = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
ADVERSARIAL = torch.tensor([[1.0, 0.0], [3.0, 0.0]])


@pytest.fixture(scope="module")
def network():
    """A network after a few steps: its logits tell the classes apart."""
    torch.manual_seed(0)
    network = WideResNet(10, 1, classes=2)
    settings = TrainingSettings(epochs=1, batch_size=32, lr=0.05, precision="float32", augment=False)
    train_epochs(network, lambda epoch, first: cut(planted(192), 32), settings, 6, on_epoch=lambda *_: None)
    return network.eval()


@pytest.fixture(scope="module")
def batch():
    return planted(40, seed=9)


@pytest.fixture(scope="module")
def distributions(network, batch):
    with torch.no_grad():
        return ClusterDistributions.fit(network.latents(batch.images / 255), batch.labels)


def brighter(network, images, labels, *, generator=None, loss=None):
    return (images + 0.1).clamp(0, 1)


def compute(network, batch, semantic, autocast=nullcontext):
    network = copy.deepcopy(network).train()
    loss, figures = robust(semantic, network, batch.images / 255, batch, autocast, torch.Generator().manual_seed(0))
    loss.backward()
    told = {name: figure.item() for name, figure in figures.items()}
    return loss.item(), told, torch.cat([p.grad.flatten() for p in network.parameters()])


def test_divergence_and_trades_by_hand():
    def p(z):
        return 1 / (1 + math.exp(-z))

    def kl(a, b):
        return a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b))

    expected = [kl(p(2), p(1)), kl(p(-1), p(3))]
    assert divergence(CLEAN, ADVERSARIAL).tolist() == pytest.approx(expected, rel=1e-5)
    entropy = -(math.log(p(2)) + math.log(p(1))) / 2
    loss = trades_loss(CLEAN, ADVERSARIAL, torch.tensor([0, 1]), beta=6)
    assert loss.item() == pytest.approx(entropy + 6 * sum(expected) / 2, rel=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.3])
@pytest.mark.parametrize("loss", ["ce", "trades"])
def test_objective_is_the_formula(network, batch, distributions, loss, alpha):
    """Each pass in training mode, the divergence from the clean to the adversarial logits, α times the distances."""
    value, figures, _ = compute(network, batch, Semantic(brighter, to_clusters(distributions), alpha, loss, beta=2.5))
    with torch.no_grad():
        clean = copy.deepcopy(network).train()(batch.images / 255)
        shifted = (batch.images / 255 + 0.1).clamp(0, 1)
        adversarial, latents = copy.deepcopy(network).train()(shifted, with_latents=True)
    pull = distributions.own_distance(latents, batch.clusters)
    if loss == "ce":
        expected = F.cross_entropy(adversarial, batch.labels)
    else:
        p, q = clean.softmax(1), adversarial.softmax(1)
        expected = F.cross_entropy(clean, batch.labels) + 2.5 * (p * (p.log() - q.log())).sum(1).mean()
    assert value == pytest.approx((expected + alpha * pull.mean()).item(), rel=1e-5)
    accuracy = (adversarial.argmax(1) == batch.labels).float().mean().item()
    assert figures == pytest.approx({"accuracy": accuracy, "distance": pull.mean().item()}, rel=1e-5)


def test_without_distributions_the_objective_is_adversarial_training(network, batch):
    loss, figures, _ = compute(network, batch, Semantic(brighter, None, 0.0))
    with torch.no_grad():
        logits = copy.deepcopy(network).train()((batch.images / 255 + 0.1).clamp(0, 1))
    assert loss == pytest.approx(F.cross_entropy(logits, batch.labels).item(), rel=1e-5)
    assert set(figures) == {"accuracy"}


@pytest.mark.parametrize("loss", ["ce", "trades"])
def test_mixed_precision_gives_the_same_gradient(network, batch, distributions, loss):
    """The pass without gradients must not leave its cast weights to the training pass."""
    semantic = Semantic(brighter, to_clusters(distributions), 0.1, loss)
    exact = compute(network, batch, semantic)[-1]
    rounded = compute(network, batch, semantic, lambda: torch.autocast("cpu", torch.bfloat16))[-1]
    assert F.cosine_similarity(exact, rounded, 0) > 0.99


def test_inner_maximisation_of_trades_raises_the_divergence(network, batch):
    images = batch.images / 255
    attack = inner_attack(AttackSettings(norm="linf", eps=0.03, steps=5))
    with torch.no_grad():
        reference = network(images)

    def rise(at):
        with torch.no_grad():
            return divergence(reference, network(at)).mean().item()

    seen = {}

    def remember(network, images, labels, *, generator=None, loss=None):
        seen["images"] = attack(network, images, labels, generator=generator, loss=loss)
        return seen["images"]

    compute(network, batch, Semantic(remember, None, 0.0, "trades"))
    random = (images + 0.03 * (torch.rand(images.shape) * 2 - 1)).clamp(0, 1)
    assert rise(images) == pytest.approx(0, abs=1e-6)
    assert rise(seen["images"]) > 10 * rise(random) > 0
    assert float((seen["images"] - images).abs().max()) <= 0.03 + 1e-6


@pytest.mark.parametrize("norm", ["linf", "l2", "dissimilarity"])
@pytest.mark.parametrize("steps", [1, 4])
def test_the_inner_attack_stays_in_its_ball_and_raises_the_loss(network, batch, norm, steps):
    eps = {"linf": 0.02, "l2": 0.4, "dissimilarity": 0.03}[norm]
    images = batch.images / 255
    attack = inner_attack(AttackSettings(norm=norm, eps=eps, steps=steps))
    perturbed = attack(network, images, batch.labels, generator=torch.Generator().manual_seed(0))
    assert float(size(perturbed - images, images, norm).max()) <= eps * (1 + 1e-5)
    assert 0 <= perturbed.min() <= perturbed.max() <= 1
    with torch.no_grad():
        before, after = (F.cross_entropy(network(x), batch.labels) for x in (images, perturbed))
    assert after > before


def test_one_step_is_longer_than_the_ball_unless_told():
    assert inner_attack(AttackSettings(eps=0.4, steps=1)).step_size == pytest.approx(0.5)
    assert inner_attack(AttackSettings(eps=0.4, steps=1, step_size=0.1)).step_size == 0.1
    assert inner_attack(AttackSettings(eps=0.4, steps=2)).step_size is None


def test_a_pull_without_clusters_is_refused():
    with pytest.raises(ConfigError, match=r"robust\.alpha is 0\.05"):
        semantic_of(RobustTrainingSettings())
