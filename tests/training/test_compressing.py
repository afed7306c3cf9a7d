"""Training of ComDefend's networks: the objective by hand, and that the loop makes codes that survive rounding."""

import pytest
import torch
from planted_images import cut, planted

from raypurify.config import CompressionSettings
from raypurify.nets.compression import CompressionNetwork
from raypurify.training import kind_of, train_epochs
from raypurify.training.guard import guard_of
from raypurify.training.start import drawn_network

SETTINGS = CompressionSettings(epochs=4, batch_size=16, lr=0.02, precision="float32")


def test_the_objective_is_the_error_and_the_price_of_the_code():
    settings = SETTINGS.model_copy(update={"code_weight": 0.5})
    network, batch = CompressionNetwork(width=1), planted(6)
    images = batch.images / 255
    value, figures = kind_of(settings).objective(
        network, images, batch, lambda: torch.autocast("cpu", enabled=False), torch.Generator().manual_seed(3)
    )
    # The images have noise of σ 0, which is drawn all the same.
    generator = torch.Generator().manual_seed(3)
    torch.randn(images.shape, generator=generator)
    code = network.noisy_code(images, generator)
    expected = (network.reconstruction(code) - images).square().mean() + 0.5 * code.square().mean()
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert figures == {}


def test_the_loop_trains_codes_that_survive_rounding():
    network = drawn_network(lambda: CompressionNetwork(width=2), seed=0)
    kind, told = kind_of(SETTINGS), []
    held_out = [planted(64, seed=99, contrast=0.4)]
    before = kind.validate(network, held_out)

    def batches(epoch, first):
        return list(cut(planted(24 * 16, seed=epoch, contrast=0.4), 16))[first:]

    train_epochs(
        network,
        batches,
        SETTINGS,
        24,
        objective=kind.objective,
        validate=lambda network: kind.validate(network, held_out),
        on_epoch=lambda epoch, metrics, state: told.append(metrics),
        guard=guard_of(SETTINGS),
        seed=0,
    )
    assert told[-1]["loss"] < 0.8 * told[0]["loss"]
    assert told[-1]["validation_psnr"] > before["validation_psnr"] + 2
