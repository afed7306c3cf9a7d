"""STL's auto-encoder: its shape, what it gives, and its file beside those of other networks."""

import json

import pytest
import torch

from raypurify.errors import ConfigError, TrainingError
from raypurify.nets import WideResNet
from raypurify.nets.dae import DenoisingAutoEncoder
from raypurify.nets.store import load_network, save_network


def test_the_layers_are_those_of_the_authors():
    """Six convolutions of 32 channels with batch norm and one to three channels; a code of 32×4×4 numbers."""
    network = DenoisingAutoEncoder()
    weights = {name: value.shape for name, value in network.named_parameters() if value.ndim == 4}
    assert [(shape[0], shape[1]) for shape in weights.values()] == [(32, 3)] + [(32, 32)] * 5 + [(3, 32)]
    assert all(shape[2:] == (3, 3) for shape in weights.values())
    assert sum(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules()) == 6
    assert (network.dim, network.side) == (512, 32)


def test_latents_are_the_last_pooled_map_and_reconstructions_images():
    network, images = DenoisingAutoEncoder(width=4).eval(), torch.rand(3, 3, 32, 32)
    latents = network.latents(images)
    assert latents.shape == (3, network.dim) == (3, 64)
    torch.testing.assert_close(latents, network.encoder(images).flatten(1))
    torch.testing.assert_close(network(images), torch.sigmoid(network.decoder(latents.view(3, 4, 4, 4))))
    assert network(torch.rand(1, 3, 16, 40)).shape == (1, 3, 16, 40)
    assert DenoisingAutoEncoder(width=4, side=16).latents(images[..., :16, :16]).shape == (3, 16)


def test_few_bits_of_a_network_are_full_floats_of_an_image():
    with torch.autocast("cpu", torch.bfloat16):
        network, images = DenoisingAutoEncoder(width=4), torch.rand(1, 3, 32, 32)
        assert network(images).dtype == network.latents(images).dtype == torch.float32


def test_a_stored_auto_encoder_comes_back_equal(tmp_path):
    network, images = DenoisingAutoEncoder(width=4, side=16).eval(), torch.rand(2, 3, 16, 16)
    save_network(tmp_path / "n.safetensors", network)
    back = load_network(tmp_path / "n.safetensors")
    assert isinstance(back, DenoisingAutoEncoder)
    assert not back.training
    assert back.settings == {"width": 4, "side": 16}
    assert torch.equal(back(images), network(images))


def test_a_file_says_of_which_architecture_it_is(tmp_path):
    save_network(tmp_path / "dae.safetensors", DenoisingAutoEncoder(width=2))
    save_network(tmp_path / "wrn.safetensors", WideResNet(10, 1, 2))
    save_network(tmp_path / "other.safetensors", torch.nn.Linear(1, 1))
    data = (tmp_path / "wrn.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert list(header["__metadata__"]) == ["wide_resnet"]
    assert isinstance(load_network(tmp_path / "wrn.safetensors", WideResNet), WideResNet)
    with pytest.raises(TrainingError, match=r"dae\.safetensors holds a DenoisingAutoEncoder, not a WideResNet"):
        load_network(tmp_path / "dae.safetensors", WideResNet)
    with pytest.raises(TrainingError, match=r"other\.safetensors"):
        load_network(tmp_path / "other.safetensors")


@pytest.mark.parametrize("settings", [{"width": 0}, {"side": 20}, {"side": 0}])
def test_settings_out_of_range_are_named(settings):
    with pytest.raises(ConfigError, match=f"{next(iter(settings))}="):
        DenoisingAutoEncoder(**settings)
