"""Catastrophic overfitting: the rule on recorded curves, what the loop does, and a network that really overfits so."""

import copy
from functools import partial

import pytest
import torch
from planted_images import clone, cut, planted

from raypurify.config import AttackSettings, TrainingSettings
from raypurify.nets import WideResNet
from raypurify.training import Semantic, measure, robust, train_epochs, validate
from raypurify.training.checkpoint import final_weights
from raypurify.training.guard import Guard, guard_of
from raypurify.training.step import check_attack, inner_attack

SETTINGS = TrainingSettings(epochs=6, batch_size=32, lr=0.05, precision="float32", augment=False)
EPS = 0.12


def first_stop(accuracy, clean):
    guard = Guard()
    for epoch, (a, c) in enumerate(zip(accuracy, clean)):
        if guard.watch(epoch, {"validation_pgd_accuracy": a, "validation_accuracy": c}, {}):
            return epoch, guard.best["epoch"]
    return None


@pytest.mark.parametrize(
    ("accuracy", "clean", "expected"),
    [
        # Fast training that overfits: robustness goes within an epoch, clean accuracy stays.
        ([0.25, 0.35, 0.42, 0.01, 0.0], [0.5, 0.6, 0.7, 0.8, 0.8], (3, 2)),
        # It goes over two epochs.
        ([0.30, 0.42, 0.30, 0.12], [0.6, 0.7, 0.75, 0.85], (3, 1)),
        # A healthy training, with its ups and downs.
        ([0.25, 0.35, 0.28, 0.40, 0.38, 0.45], [0.5, 0.6, 0.5, 0.7, 0.7, 0.8], None),
        # A bad epoch at a high learning rate takes both accuracies down.
        ([0.30, 0.40, 0.15, 0.42], [0.55, 0.65, 0.30, 0.70], None),
        # Less than a tenth to lose.
        ([0.08, 0.01, 0.0], [0.3, 0.5, 0.6], None),
        # An untrained network is as good under attack as without, and no better.
        ([0.10, 0.10, 0.10], [0.10, 0.10, 0.10], None),
    ],
)
def test_the_rule(accuracy, clean, expected):
    assert first_stop(accuracy, clean) == expected


def train(curve, resume=None):
    """A training whose validation says what is on the curve."""
    torch.manual_seed(0)
    network, told, states, after = WideResNet(10, 1, 2), [], [], []
    start = resume["epochs"] if resume else 0
    figures = iter(curve[start:])

    def check(kept):
        after.append(clone(kept.state_dict()))
        return {"validation_accuracy": 0.9, "validation_pgd_accuracy": next(figures)}

    train_epochs(
        network,
        lambda epoch, first: cut(planted(64, seed=epoch), 32),
        SETTINGS,
        2,
        validate=check,
        guard=Guard(),
        resume=resume,
        on_epoch=lambda epoch, metrics, state: (told.append(metrics), states.append(clone(state()))),
    )
    return network, told, states, after


def equal(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_the_loop_stops_says_so_and_keeps_the_best_epoch():
    network, told, states, after = train([0.2, 0.5, 0.4, 0.0, 0.9, 0.9])
    assert len(told) == 4
    assert ["note" in metrics for metrics in told] == [False, False, False, True]
    assert "fell to 0.000 in epoch 3 from 0.500 in epoch 1" in told[-1]["note"]
    assert equal(network.state_dict(), after[1])
    assert equal(final_weights(states[-1]), after[1])
    assert not equal(after[1], after[2])


@pytest.mark.parametrize("attacked", [True, False])
def test_the_best_epoch_is_kept_where_that_is_asked_for(attacked):
    torch.manual_seed(0)
    settings, states, after = SETTINGS.model_copy(update={"keep": "best", "epochs": 4}), [], []
    clean, attack = iter([0.5, 0.6, 0.9, 0.8]), iter([0.3, 0.5, 0.0, 0.4])

    def check(kept):
        after.append(clone(kept.state_dict()))
        figures = {"validation_accuracy": next(clean)}
        return figures | ({"validation_pgd_accuracy": next(attack)} if attacked else {})

    network = WideResNet(10, 1, 2)
    train_epochs(
        network,
        lambda epoch, first: cut(planted(64, seed=epoch), 32),
        settings,
        2,
        validate=check,
        guard=guard_of(settings),
        on_epoch=lambda epoch, metrics, state: states.append(clone(state())),
    )
    assert len(after) == 4
    best = after[1 if attacked else 2]
    assert equal(network.state_dict(), best)
    assert equal(final_weights(states[-1]), best)


@pytest.mark.parametrize("done", [1, 3, 4])
def test_a_resumed_training_stops_the_same(done):
    curve = [0.2, 0.5, 0.4, 0.0, 0.9, 0.9]
    network, _, states, _ = train(curve)
    again, told, _, _ = train(curve, resume=states[done - 1])
    assert len(told) == 4 - done
    assert equal(network.state_dict(), again.state_dict())


def test_without_a_collapse_the_last_epoch_is_kept():
    network, told, _, after = train([0.2, 0.5, 0.4, 0.3, 0.3, 0.3])
    assert len(told) == 6
    assert equal(network.state_dict(), after[-1])


@pytest.fixture(scope="module")
def images():
    return planted(256, seed=1), [planted(100, seed=99)]


def adversarial(network, images, steps, epochs, guard=None):
    settings = SETTINGS.model_copy(update={"epochs": epochs, "lr": 0.1})
    attack = AttackSettings(norm="linf", eps=EPS, steps=steps, random_start=steps > 1)
    batch, held_out = images
    told = []
    train_epochs(
        network,
        lambda epoch, first: cut(batch, 32, torch.randperm(256, generator=torch.Generator().manual_seed(epoch))),
        settings,
        8,
        objective=partial(robust, Semantic(inner_attack(attack), None, 0.0)),
        validate=lambda kept: validate(kept, held_out, check_attack(attack)),
        guard=guard,
        on_epoch=lambda epoch, metrics, state: told.append(metrics),
    )
    return told


def test_a_robust_network_overfits_to_a_single_step_and_is_saved(images):
    """FGSM without a random start, at a large ε: the single step seems withstood, ten steps break every image."""
    torch.manual_seed(0)
    robust = WideResNet(10, 1, 2)
    adversarial(robust, images, steps=7, epochs=6)
    alone, watched = copy.deepcopy(robust), copy.deepcopy(robust)

    told = adversarial(alone, images, steps=1, epochs=8)
    assert told[-1]["accuracy"] > 0.7
    assert told[-1]["validation_accuracy"] > 0.9
    assert told[-1]["validation_pgd_accuracy"] < 0.1

    told = adversarial(watched, images, steps=1, epochs=8, guard=Guard())
    assert "catastrophic overfitting" in told[-1]["note"]
    assert len(told) < 8
    attack = check_attack(AttackSettings(norm="linf", eps=EPS))
    kept = measure(watched, images[1], attack=attack)["accuracy"]
    assert kept == max(metrics["validation_pgd_accuracy"] for metrics in told) > 0.3
