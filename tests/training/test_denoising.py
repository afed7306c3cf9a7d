"""Training of denoisers: the noise, the losses, and that the same loop trains, resumes and keeps them."""

import math
from functools import partial
from itertools import islice

import pytest
import torch
from planted_images import SIDE, clone, cut, planted
from torch.nn import functional as F

from raypurify.config import DaeSettings, DenoisingSettings
from raypurify.nets.dae import DenoisingAutoEncoder
from raypurify.nets.store import load_network
from raypurify.training import kind_of, train_epochs
from raypurify.training.data import ImageSet
from raypurify.training.denoising import noised, psnr, reconstruction_loss, training_sigma, validate_denoising
from raypurify.training.guard import guard_of
from raypurify.training.single import train_network_here
from raypurify.training.start import drawn_network

STEPS = 6
SETTINGS = DaeSettings(epochs=4, batch_size=32, lr=0.02, width=8, optimizer="adam", precision="float32")
CPU = torch.device("cpu")


def batches(epoch, first):
    return islice(cut(planted(STEPS * 32, seed=epoch, contrast=0.4), 32), first, None)


def trained(settings=SETTINGS, resume=None, **more):
    network = drawn_network(partial(DenoisingAutoEncoder, settings.width, SIDE), seed=1)
    told, states = [], []

    def on_epoch(epoch, metrics, state):
        told.append(metrics)
        states.append(clone(state()))

    kind = kind_of(settings)
    check = partial(kind.validate, batches=[planted(64, seed=99, contrast=0.4)])
    more |= {"objective": kind.objective, "validate": check, "guard": guard_of(settings), "seed": 3}
    train_epochs(network, batches, settings, STEPS, resume=resume, on_epoch=on_epoch, **more)
    return network.eval(), told, states


@pytest.fixture(scope="module")
def whole():
    return trained()


def same(one, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_noise_has_the_size_asked_for_and_stays_within_the_range():
    images = torch.full((64, 3, 32, 32), 0.5)
    out = noised(images, torch.cat([torch.zeros(32), torch.full((32,), 0.1)]), torch.Generator().manual_seed(0))
    assert torch.equal(out[:32], images[:32])
    assert (out[32:] - 0.5).std().item() == pytest.approx(0.1, rel=0.01)
    bright = noised(torch.ones(1, 3, 8, 8), torch.tensor([0.5]))
    assert 0 <= bright.min() < bright.max() == 1


def test_levels_say_which_images_have_noise():
    def sigma(levels):
        return training_sigma(DenoisingSettings(noise=0.2, levels=levels), 1000, CPU, torch.Generator().manual_seed(0))

    assert sorted(sigma("half").unique().tolist()) == pytest.approx([0, 0.2])
    assert (sigma("half") > 0).sum() == 500
    assert sigma("all").unique().tolist() == pytest.approx([0.2])
    assert (sigma("range").min() < 0.01, sigma("range").max() > 0.19) == (True, True)
    assert sigma("range").mean().item() == pytest.approx(0.1, rel=0.05)


def test_losses_and_ratio_by_hand():
    out, images = torch.tensor([[0.25, 0.5]]), torch.tensor([[1.0, 0.5]])
    entropy = -(math.log(0.25) + math.log(0.5)) / 2
    assert reconstruction_loss(out, images, "bce").item() == pytest.approx(entropy, rel=1e-6)
    assert reconstruction_loss(out, images, "mse").item() == pytest.approx(0.75**2 / 2)
    assert psnr(out, images).item() == pytest.approx(-10 * math.log10(0.75**2 / 2), rel=1e-6)
    assert psnr(images, images).item() == pytest.approx(100)


@pytest.mark.parametrize("loss", ["bce", "mse"])
def test_the_objective_is_the_loss_of_the_clean_images(loss):
    settings = SETTINGS.model_copy(update={"loss": loss})
    network, batch = DenoisingAutoEncoder(8, SIDE).eval(), planted(10)
    images = batch.images / 255
    generator = torch.Generator().manual_seed(5)
    value, figures = kind_of(settings).objective(
        network, images, batch, lambda: torch.autocast("cpu", enabled=False), generator.clone_state()
    )
    with torch.no_grad():
        out = network(noised(images, training_sigma(settings, 10, CPU, generator), generator))
    expected = F.binary_cross_entropy(out, images) if loss == "bce" else F.mse_loss(out, images)
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    assert figures == {}


def test_the_loop_trains_an_auto_encoder_and_tells_its_figures(whole):
    network, told, _ = whole
    assert set(told[0]) == {"loss", "validation_loss", "validation_psnr", "seconds", "images_per_second"}
    assert told[-1]["loss"] < told[0]["loss"]
    assert told[-1]["validation_psnr"] > told[0]["validation_psnr"] + 1
    again = validate_denoising(SETTINGS, network, [planted(64, seed=99, contrast=0.4)])
    assert again == {name: told[-1][name] for name in again}


def test_few_bits_train_as_well(whole):
    _, told, _ = trained(SETTINGS.model_copy(update={"precision": "bfloat16"}))
    assert told[-1]["loss"] == pytest.approx(whole[1][-1]["loss"], abs=0.005)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_resumed_training_is_the_uninterrupted_one(whole, optimizer):
    settings = SETTINGS if optimizer == "adam" else SETTINGS.model_copy(update={"optimizer": "sgd", "lr": 0.5})
    network, told, states = whole if optimizer == "adam" else trained(settings)
    again, rest, _ = trained(settings, resume=states[1])
    assert [one["loss"] for one in rest] == [one["loss"] for one in told[2:]]
    assert same(network, again)


def test_a_training_resumed_within_an_epoch_is_the_uninterrupted_one(whole):
    network, told, _ = whole
    held, settings = [], SETTINGS.model_copy(update={"checkpoint_steps": 4})
    trained(settings, on_checkpoint=lambda state: held.append(clone(state())))
    again, rest, _ = trained(resume=held[1])
    assert (held[1]["epochs"], held[1]["within"]["step"]) == (1, 4)
    assert [one["loss"] for one in rest] == [one["loss"] for one in told[1:]]
    assert same(network, again)


def test_the_best_epoch_is_that_of_the_highest_ratio():
    _, told, states = trained(SETTINGS.model_copy(update={"keep": "best"}))
    best = max(range(len(told)), key=lambda epoch: told[epoch]["validation_psnr"])
    assert states[-1]["best"]["epoch"] == best


def test_on_one_machine_it_leaves_what_every_training_leaves(tmp_path):
    def part(count, seed):
        batch = planted(count, seed=seed)
        return ImageSet(torch.arange(count).numpy(), batch.labels.numpy(), batch.images.numpy())

    network = drawn_network(partial(DenoisingAutoEncoder, 8, SIDE), seed=0)
    settings = SETTINGS.model_copy(update={"epochs": 2})
    said = []
    arguments = (tmp_path, network, part(64, 0), part(32, 1), settings)
    lines = train_network_here(*arguments, architecture=network.settings, say=said.append)
    assert [set(line) >= {"loss", "validation_loss", "validation_psnr", "device"} for line in lines] == [True, True]
    assert "PSNR" in said[0]
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert same(load_network(tmp_path / "network.safetensors"), network)
