"""Training on small planted problems: what each part of the objective does, and that a resumed run is the same run."""

import math

import pytest
import torch

from raypurify.attacks import PGD
from raypurify.clusters import ClusterDistributions
from raypurify.config import Training
from raypurify.errors import TrainingError
from raypurify.nets import WideResNet
from raypurify.training import Batch, measure, robust_semantic_loss, train_epochs
from raypurify.training.augment import flip_and_crop
from raypurify.training.loop import Semantic

SIDE, STEPS = 16, 6
SETTINGS = Training(epochs=3, batch_size=32, lr=0.05, precision="float32", augment=True)


def planted(count: int, seed: int = 0) -> Batch:
    """Two classes that differ in brightness and in the direction of their stripes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    stripes = torch.sin(torch.arange(SIDE) * 1.5)
    patterns = torch.stack([stripes[:, None].expand(SIDE, SIDE), stripes[None].expand(SIDE, SIDE)])
    images = 0.5 + 0.15 * patterns[labels][:, None] + 0.1 * torch.randn(count, 3, SIDE, SIDE, generator=generator)
    return Batch((images.clamp(0, 1) * 255).to(torch.uint8), labels, labels.clone())


def batches(epoch: int):
    batch = planted(STEPS * 32, seed=epoch)
    for i in range(STEPS):
        part = slice(32 * i, 32 * i + 32)
        yield Batch(batch.images[part], batch.labels[part], batch.clusters[part])


def trained(semantic=None, settings=SETTINGS, resume=None, init=None):
    torch.manual_seed(0)
    network = WideResNet(10, 1, classes=2)
    if init is not None:
        network.load_state_dict(init.state_dict())
    losses, states = [], []

    def on_epoch(epoch, metrics, state):
        losses.append(metrics["loss"])
        states.append(clone(state()))

    train_epochs(network, batches, settings, STEPS, semantic=semantic, seed=3, resume=resume, on_epoch=on_epoch)
    return network.eval(), losses, states


def clone(tree):
    if isinstance(tree, torch.Tensor):
        return tree.clone()
    if isinstance(tree, dict):
        return {key: clone(value) for key, value in tree.items()}
    return [clone(value) for value in tree] if isinstance(tree, list) else tree


@pytest.fixture(scope="module")
def baseline():
    return trained()


@pytest.fixture(scope="module")
def distributions(baseline):
    batch = planted(200, seed=50)
    with torch.no_grad():
        latents = baseline[0].latents(batch.images.float() / 255)
    return ClusterDistributions.fit(latents, batch.labels, form="shrinkage")


def test_loss_is_cross_entropy_plus_alpha_times_the_mean_distance():
    logits, labels = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])
    distances = torch.tensor([3.0, 5.0])
    entropy = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(1))) / 2
    assert robust_semantic_loss(logits, labels, distances, 0.1).item() == pytest.approx(entropy + 0.1 * 4, rel=1e-6)


def test_gradient_of_the_objective_agrees_with_finite_differences(distributions):
    torch.manual_seed(1)
    head = torch.nn.Linear(64, 2).double()
    exact = distributions.to(dtype=torch.float64)
    labels = torch.tensor([0, 1, 1])

    def objective(latents):
        return robust_semantic_loss(head(latents), labels, exact.own_distance(latents, labels), 0.3)

    latents = exact.means[labels] + torch.randn(3, 64, dtype=torch.float64)
    assert torch.autograd.gradcheck(objective, latents.requires_grad_())


def test_training_learns_the_planted_classes(baseline):
    network, losses, _ = baseline
    assert losses[-1] < 0.5 * losses[0]
    figures = measure(network, [planted(200, seed=99)])
    assert figures["images"] == 200
    assert figures["accuracy"] > 0.95


def test_resumed_run_is_the_uninterrupted_one(baseline):
    network, losses, states = baseline
    again, rest, _ = trained(resume=states[0])
    assert rest == losses[1:]
    for name, value in network.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_robust_semantic_training_pulls_adversarial_latents_to_their_clusters(baseline, distributions):
    attack = PGD(eps=1.0, norm="l2", steps=2)
    held_out = planted(200, seed=77)
    images = held_out.images.float() / 255

    def mean_distance(alpha):
        network, _, _ = trained(Semantic(attack, distributions, alpha), init=baseline[0])
        adversarial = attack(network, images, held_out.labels, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            return float(distributions.own_distance(network.latents(adversarial), held_out.labels).mean())

    plain, semantic = mean_distance(0.0), mean_distance(0.3)
    assert semantic < 0.8 * plain


def test_batch_norm_statistics_are_updated_by_the_training_pass_alone(baseline, distributions):
    network, _, _ = trained(Semantic(PGD(eps=0.5, norm="l2", steps=3), distributions, 0.1))
    counts = {int(v) for k, v in network.state_dict().items() if k.endswith("num_batches_tracked")}
    assert counts == {SETTINGS.epochs * STEPS}


def test_a_loss_that_is_not_finite_stops_with_the_epoch_named():
    with pytest.raises(TrainingError, match="epoch 0"):
        trained(settings=SETTINGS.model_copy(update={"lr": 1e30}))


def test_an_epoch_without_batches_is_named():
    with pytest.raises(TrainingError, match="no batch"):
        train_epochs(WideResNet(10, 1, 2), lambda epoch: [], SETTINGS, 1, on_epoch=lambda *_: None)


def test_checkpoint_of_another_network_is_refused(baseline):
    with pytest.raises(TrainingError, match="does not fit"):
        train_epochs(WideResNet(10, 2, 2), batches, SETTINGS, STEPS, resume=baseline[2][0], on_epoch=lambda *_: None)


def test_augmentation_crops_and_flips_each_image_on_its_own():
    images = torch.arange(64.0).reshape(1, 1, 8, 8).expand(50, 3, 8, 8) + 1
    out = flip_and_crop(images, torch.Generator().manual_seed(0))
    assert out.shape == images.shape
    assert len({tuple(image.flatten().tolist()) for image in out}) > 10
    # Every value is one of the image's own or the padding's, and rows stay runs of neighbours, in either direction.
    steps = (out[:, 0, :, 1:] - out[:, 0, :, :-1])[(out[:, 0, :, 1:] > 0) & (out[:, 0, :, :-1] > 0)]
    assert set(steps.tolist()) == {1.0, -1.0}
