"""Averaged weights: the formula, and that they are what a training validates and keeps."""

import pytest
import torch
from planted_images import cut, planted

from raypurify.config import TrainingSettings
from raypurify.errors import TrainingError
from raypurify.nets import WideResNet
from raypurify.training import measure, train_epochs

SETTINGS = TrainingSettings(epochs=2, batch_size=32, lr=0.05, precision="float32", augment=False, ema=0.8)


def test_the_average_follows_the_formula_and_is_kept():
    torch.manual_seed(0)
    network = WideResNet(10, 1, 2)
    name = "head.weight"
    expected = network.state_dict()[name].clone()
    seen, states, validated = [], [], []
    train_epochs(
        network,
        lambda epoch, first: cut(planted(128, seed=epoch), 32),
        SETTINGS,
        4,
        validate=lambda kept: validated.append(kept.state_dict()[name].clone()) or {},
        on_step=lambda _: seen.append(network.state_dict()[name].clone()),
        on_epoch=lambda epoch, metrics, state: states.append(state()),
    )
    for step, weight in enumerate(seen):
        decay = min(0.8, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight
    torch.testing.assert_close(network.state_dict()[name], expected)
    torch.testing.assert_close(validated[-1], expected)
    assert not torch.allclose(expected, seen[-1])
    last = states[-1]["average"]
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in last.items())


def test_buffers_are_copied():
    network = WideResNet(10, 1, 2)
    buffers = []
    train_epochs(
        network,
        lambda epoch, first: cut(planted(64, seed=epoch), 32),
        SETTINGS,
        2,
        on_epoch=lambda epoch, metrics, state: buffers.append(
            [(state()["network"][k].clone(), state()["average"][k].clone()) for k, _ in network.named_buffers()]
        ),
    )
    assert all(torch.equal(one, other) for one, other in buffers[-1])


def test_the_average_classifies():
    network = WideResNet(10, 1, 2)
    settings = SETTINGS.model_copy(update={"epochs": 3, "ema": 0.9})
    train_epochs(network, lambda e, first: cut(planted(192, seed=e), 32), settings, 6, on_epoch=lambda *_: None)
    assert measure(network, [planted(100, seed=99)])["accuracy"] > 0.9


def test_a_checkpoint_without_an_average_does_not_fit_a_training_with_one():
    network, states = WideResNet(10, 1, 2), []

    def train(settings, resume=None):
        train_epochs(
            network,
            lambda epoch, first: cut(planted(64), 32),
            settings,
            2,
            resume=resume,
            on_epoch=lambda epoch, metrics, state: states.append(state()),
        )

    train(SETTINGS.model_copy(update={"ema": 0.0, "epochs": 1}))
    with pytest.raises(TrainingError, match="does not fit"):
        train(SETTINGS, states[0])
