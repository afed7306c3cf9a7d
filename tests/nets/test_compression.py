"""ComDefend's networks: their shape, the bits, the noise of training, and the gradient past the rounding."""

import json
import resource

import pytest
import torch
from safetensors.torch import save_file

from raypurify.errors import ConfigError, TrainingError
from raypurify.nets.compression import CompressionNetwork
from raypurify.nets.store import load_network, save_network


@pytest.fixture
def network():
    torch.manual_seed(0)
    return CompressionNetwork(width=2).eval()


@pytest.fixture
def images():
    return torch.rand(4, 3, 9, 12, generator=torch.Generator().manual_seed(1))


def channels(layers):
    return [layers[0].in_channels, *(layer.out_channels for layer in layers[::2])]


def test_at_full_width_the_layers_are_the_papers():
    network = CompressionNetwork()
    assert channels(network.com) == [3, 16, 32, 64, 128, 256, 128, 64, 32, 12]
    assert channels(network.rec) == [12, 32, 64, 128, 256, 128, 64, 32, 16, 3]


def test_an_image_is_what_its_bits_say(network, images):
    code = network.code(images)
    assert code.shape == (4, 12, 9, 12)
    assert set(code.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(code, (network.linear_code(images) > 0).float())
    assert torch.equal(network(images), network.reconstruction(code))
    near = images + 1e-7
    assert torch.equal(network.code(near), code)
    assert torch.equal(network(near), network(images))


def test_training_sees_bits_that_noise_has_flipped(network, images):
    reconstruction, code = network(images, noisy=True, generator=torch.Generator().manual_seed(2))
    assert torch.equal(reconstruction, network.reconstruction(code))
    # Of noise of σ 20, one in eight leaves the logistic function between 0.05 and 0.95.
    assert ((code < 0.05) | (code > 0.95)).float().mean() > 0.85
    flipped = (code > 0.5) != (network.linear_code(images) > 0)
    assert 0.1 < flipped.float().mean() < 0.5
    again = network.noisy_code(images, torch.Generator().manual_seed(2))
    assert torch.equal(again, code)
    assert not torch.equal(network.noisy_code(images), code)


def test_bits_are_the_likelier_ones_under_the_noise(network, images):
    share = sum((network.noisy_code(images) > 0.5).float() for _ in range(300)) / 300
    a = network.linear_code(images)
    torch.testing.assert_close(share, torch.special.ndtr(a), atol=0.15, rtol=0)
    clear = (share - 0.5).abs() > 0.1
    assert torch.equal((share > 0.5)[clear], network.code(images).bool()[clear])


def test_the_gradient_is_that_of_the_mean_bit(network, images):
    given = images.clone().requires_grad_()
    (found,) = torch.autograd.grad(network.code(given).square().sum(), given)
    (expected,) = torch.autograd.grad(
        (2 * network.code(images).detach() * torch.special.ndtr(network.linear_code(given))).sum(), given
    )
    assert found.any()
    torch.testing.assert_close(found, expected)


def test_a_network_is_kept_with_its_settings(network, images, tmp_path):
    save_network(tmp_path / "network.safetensors", network)
    again = load_network(tmp_path / "network.safetensors", CompressionNetwork)
    assert again.settings == {"width": 2, "noise": 20.0}
    assert torch.equal(again(images), network(images))


@pytest.mark.parametrize("settings", [{"width": 0}, {"noise": 0.0}, {"noise": float("nan")}])
def test_networks_out_of_range_are_named(settings):
    with pytest.raises(ConfigError, match=f"{next(iter(settings))}="):
        CompressionNetwork(**settings)


def test_a_file_takes_no_memory_that_its_weights_do_not(network, tmp_path):
    about = {"comdefend": json.dumps({"width": 400, "noise": 20.0})}
    save_file(network.state_dict(), tmp_path / "far.safetensors", metadata=about)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TrainingError, match="size mismatch"):
        load_network(tmp_path / "far.safetensors", CompressionNetwork)
    # In KiB; such a network has a billion weights.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20
