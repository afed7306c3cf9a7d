"""Training on small planted problems: what each part of the objective does, and that a resumed run is the same run."""

import math
from functools import partial
from itertools import islice

import pytest
import torch
from planted_images import clone, cut, planted

from raypurify.attacks import PGD
from raypurify.clusters import ClusterDistributions
from raypurify.config import TrainingSettings
from raypurify.errors import TrainingError
from raypurify.nets import WideResNet
from raypurify.training import (
    Batch,
    Semantic,
    classification,
    measure,
    robust,
    robust_semantic_loss,
    train_epochs,
    validate,
)
from raypurify.training.augment import augmented, flip_and_crop, flip_and_resize
from raypurify.training.checkpoint import final_weights, read_checkpoint, write_checkpoint
from raypurify.training.loop import precision
from raypurify.training.supervision import to_clusters

STEPS = 6
SETTINGS = TrainingSettings(epochs=3, batch_size=32, lr=0.05, precision="float32", augment=True)


def robustly(how: Semantic):
    return partial(robust, how)


def batches(epoch: int, first: int):
    return islice(cut(planted(STEPS * 32, seed=epoch), 32), first, None)


def trained(objective=classification, settings=SETTINGS, resume=None, init=None, dropout=0.0, **more):
    torch.manual_seed(0)
    network = WideResNet(10, 1, classes=2, dropout=dropout)
    if init is not None:
        network.load_state_dict(init.state_dict())
    losses, states = [], []

    def on_epoch(epoch, metrics, state):
        losses.append(metrics["loss"])
        states.append(clone(state()))

    train_epochs(
        network, batches, settings, STEPS, objective=objective, seed=3, resume=resume, on_epoch=on_epoch, **more
    )
    return network.eval(), losses, states


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


def same(one, other) -> bool:
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_resumed_run_is_the_uninterrupted_one(baseline):
    network, losses, states = baseline
    again, rest, _ = trained(resume=states[0])
    assert rest == losses[1:]
    assert same(network, again)


def test_resumed_run_is_the_uninterrupted_one_with_every_part_that_has_a_state(distributions):
    """Momentum, averaged weights, dropout, random starts of the attack, TRADES, bfloat16."""
    objective = robustly(Semantic(PGD(eps=0.5, norm="l2", steps=1), to_clusters(distributions), 0.1, loss="trades"))
    settings = SETTINGS.model_copy(update={"epochs": 2, "ema": 0.9, "precision": "bfloat16"})
    torch.rand(5)
    network, losses, states = trained(objective, settings, dropout=0.3)
    torch.rand(17)
    again, rest, _ = trained(objective, settings, dropout=0.3, resume=states[0])
    assert rest == losses[1:]
    assert same(network, again)
    assert all(torch.equal(network.state_dict()[name], value) for name, value in final_weights(states[-1]).items())


@pytest.mark.parametrize("place", [(0, 2), (1, 4)])
def test_a_run_resumed_within_an_epoch_is_the_uninterrupted_one(distributions, tmp_path, place):
    objective = robustly(Semantic(PGD(eps=0.5, norm="l2", steps=1), to_clusters(distributions), 0.1))
    settings = SETTINGS.model_copy(update={"epochs": 2, "ema": 0.9, "checkpoint_steps": 2})
    places = []

    def hold(state):
        checkpoint = state()
        places.append((checkpoint["epochs"], checkpoint["within"]["step"]))
        if places[-1] == place:
            write_checkpoint(tmp_path / "checkpoint.pt", checkpoint)

    network, losses, _ = trained(objective, settings, dropout=0.3, on_checkpoint=hold)
    assert places == [(0, 2), (0, 4), (1, 2), (1, 4)]
    found = read_checkpoint(tmp_path / "checkpoint.pt")
    again, rest, _ = trained(objective, settings, dropout=0.3, resume=found)
    assert rest == losses[place[0] :]
    assert same(network, again)


@pytest.fixture(scope="module")
def within():
    """The losses of a training of one epoch, and its checkpoint after four steps."""
    held, settings = [], SETTINGS.model_copy(update={"epochs": 1, "checkpoint_steps": 4})
    _, losses, _ = trained(settings=settings, on_checkpoint=lambda state: held.append(clone(state())))
    return losses, settings, held[0]


def test_a_checkpoint_of_before_figures_had_names_goes_on(within):
    losses, settings, checkpoint = within
    old = checkpoint["within"] | {"sums": (*checkpoint["within"]["sums"].values(), 0.0)}
    assert trained(settings=settings, resume=clone(checkpoint | {"within": old}))[1] == losses


def test_an_epoch_of_which_another_number_of_workers_leaves_no_step_tells_what_was_done(within):
    _, settings, checkpoint = within
    done = checkpoint["within"]
    again = trained(settings=settings, resume=clone(checkpoint | {"within": done | {"step": STEPS}}))[1]
    assert again == [pytest.approx(done["sums"]["loss"] / done["images"])]


def test_training_leaves_the_global_generator_as_it_was():
    torch.manual_seed(5)
    expected = torch.rand(3)
    network = WideResNet(10, 1, 2)
    torch.manual_seed(5)
    train_epochs(network, batches, SETTINGS.model_copy(update={"epochs": 1}), STEPS, on_epoch=lambda *_: torch.rand(9))
    assert torch.equal(torch.rand(3), expected)


def test_an_epoch_reports_its_figures(distributions):
    reports = []
    network = WideResNet(10, 1, 2)
    held_out, attack = [planted(60, seed=99), planted(20, seed=98)], PGD(eps=0.5, norm="l2", steps=3)
    train_epochs(
        network,
        batches,
        SETTINGS.model_copy(update={"epochs": 1}),
        STEPS,
        objective=robustly(Semantic(PGD(eps=0.5, norm="l2", steps=1), to_clusters(distributions), 0.1)),
        validate=lambda network: validate(network, iter(held_out), attack, distributions),
        on_epoch=lambda epoch, metrics, state: reports.append(metrics),
    )
    (metrics,) = reports
    figures = {f"validation_{kind}{name}" for kind in ("", "pgd_") for name in ("accuracy", "distance")}
    assert set(metrics) == {"loss", "accuracy", "distance", "seconds", "images_per_second"} | figures
    assert metrics["images_per_second"] * metrics["seconds"] == pytest.approx(STEPS * 32)
    clean = measure(network, held_out, distributions=distributions)
    attacked = measure(network, held_out, attack=attack, distributions=distributions)
    assert metrics["validation_accuracy"] == clean["accuracy"]
    assert metrics["validation_distance"] == clean["distance"]
    assert metrics["validation_pgd_accuracy"] == attacked["accuracy"]
    assert metrics["validation_pgd_distance"] == attacked["distance"]


def test_robust_semantic_training_pulls_adversarial_latents_to_their_clusters(baseline, distributions):
    attack = PGD(eps=1.0, norm="l2", steps=2)
    held_out = planted(200, seed=77)
    images = held_out.images.float() / 255

    def mean_distance(alpha):
        network, _, _ = trained(robustly(Semantic(attack, to_clusters(distributions), alpha)), init=baseline[0])
        adversarial = attack(network, images, held_out.labels, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            return float(distributions.own_distance(network.latents(adversarial), held_out.labels).mean())

    plain, semantic = mean_distance(0.0), mean_distance(0.3)
    assert semantic < 0.8 * plain


@pytest.mark.parametrize(("loss", "passes"), [("ce", 1), ("trades", 2)])
def test_batch_norm_statistics_are_updated_by_the_training_pass_alone(distributions, loss, passes):
    """TRADES trains on two passes, the clean and the adversarial one."""
    network, _, _ = trained(robustly(Semantic(PGD(eps=0.5, norm="l2", steps=3), to_clusters(distributions), 0.1, loss)))
    counts = {int(v) for k, v in network.state_dict().items() if k.endswith("num_batches_tracked")}
    assert counts == {SETTINGS.epochs * STEPS * passes}


def test_a_loss_that_is_not_finite_stops_with_the_epoch_named():
    with pytest.raises(TrainingError, match="epoch 0"):
        trained(settings=SETTINGS.model_copy(update={"lr": 1e30}))


def test_an_epoch_without_batches_is_named():
    with pytest.raises(TrainingError, match="no batch"):
        train_epochs(WideResNet(10, 1, 2), lambda epoch, first: [], SETTINGS, 1, on_epoch=lambda *_: None)


def test_checkpoint_of_another_network_is_refused(baseline):
    with pytest.raises(TrainingError, match="does not fit"):
        train_epochs(WideResNet(10, 2, 2), batches, SETTINGS, STEPS, resume=baseline[2][0], on_epoch=lambda *_: None)


def test_all_images_in_a_single_cluster_train(baseline):
    batch = planted(100, seed=50)
    with torch.no_grad():
        latents = baseline[0].latents(batch.images.float() / 255)
    single = ClusterDistributions.fit(latents, torch.zeros(100, dtype=torch.int64))

    def all_in_one(epoch, first):
        yield Batch(batch.images, batch.labels, torch.zeros(100, dtype=torch.int64))

    reports = []
    train_epochs(
        WideResNet(10, 1, 2),
        all_in_one,
        SETTINGS.model_copy(update={"epochs": 1}),
        1,
        objective=robustly(Semantic(PGD(eps=0.5, norm="l2", steps=1), to_clusters(single), 0.1)),
        on_epoch=lambda epoch, metrics, state: reports.append(metrics),
    )
    assert 0 < reports[0]["distance"] < 1e4


def test_augmentation_crops_and_flips_each_image_on_its_own():
    images = torch.arange(64.0).reshape(1, 1, 8, 8).expand(50, 3, 8, 8) + 1
    out = flip_and_crop(images, torch.Generator().manual_seed(0))
    assert out.shape == images.shape
    assert len({tuple(image.flatten().tolist()) for image in out}) > 10
    # Every value is one of the image's own or the padding's, and rows stay runs of neighbours, in either direction.
    steps = (out[:, 0, :, 1:] - out[:, 0, :, :-1])[(out[:, 0, :, 1:] > 0) & (out[:, 0, :, :-1] > 0)]
    assert set(steps.tolist()) == {1.0, -1.0}


def test_a_resized_crop_is_a_stretched_part_of_the_image_on_its_own():
    across = torch.linspace(0, 1, 64)
    ramps = torch.stack([across.expand(64, 64), across[:, None].expand(64, 64), torch.full((64, 64), 0.3)])
    out = flip_and_resize(ramps.expand(200, 3, 64, 64), torch.Generator().manual_seed(0))
    assert out.shape == (200, 3, 64, 64)
    assert out.min() >= 0
    assert out.max() <= 1
    torch.testing.assert_close(out[:, 2], torch.full((200, 64, 64), 0.3))
    # Straight lines stay straight and square to the sides; about half are flipped, none upside down.
    torch.testing.assert_close(out[:, 0], out[:, 0, :1].expand(-1, 64, -1), atol=1e-5, rtol=0)
    rise, fall = out[:, 0, 0, 48] - out[:, 0, 0, 15], out[:, 1, 48, 0] - out[:, 1, 15, 0]
    assert 60 < (rise < 0).sum() < 140
    assert (fall > 0).all()
    width, height = rise.abs() * 63 / 33, fall * 63 / 33
    assert ((width * height).min() > 0.3, (width * height).max() > 0.9) == (True, True)
    assert (width / height).max() < 1.4
    assert (width / height).min() > 0.7


def test_augmentation_is_chosen_by_name_and_drawn_by_seed():
    images = torch.rand(4, 3, 16, 16)
    assert augmented(images, "none", torch.Generator()) is images
    for how in ("crop", "resized_crop"):
        first, again, other = (augmented(images, how, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


@pytest.mark.parametrize(("capability", "dtype"), [("AVX512", torch.bfloat16), ("AVX2", torch.float32)])
def test_processors_that_are_slow_at_bfloat16_compute_in_float32(monkeypatch, capability, dtype):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    with precision(TrainingSettings(precision="bfloat16"), torch.device("cpu")):
        assert torch.nn.functional.linear(torch.ones(1, 2), torch.ones(3, 2)).dtype == dtype
