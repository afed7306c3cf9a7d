"""WideResNet against what the papers and the field report of it."""

import pytest
import torch

from raypurify.errors import ConfigError, TrainingError
from raypurify.nets import WideResNet
from raypurify.nets.store import load_network, save_network


@pytest.mark.parametrize(
    ("depth", "width", "parameters"),
    [(28, 10, 36_479_194), (34, 10, 46_160_474), (32, 10, 46_160_474), (70, 16, 266_796_506), (16, 2, 691_674)],
)
def test_parameter_count_is_the_published_one(depth, width, parameters):
    with torch.device("meta"):
        network = WideResNet(depth, width, classes=10)
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize("depth", [1, 4, 9, 11, 12])
def test_unknown_depth_is_refused(depth):
    with pytest.raises(ConfigError, match=f"depth {depth}"):
        WideResNet(depth, 1, 10)


def test_logits_are_the_head_of_the_latents():
    network = WideResNet(10, 2, classes=7).eval()
    images = torch.rand(3, 3, 40, 24)
    logits, latents = network(images, with_latents=True)
    assert latents.shape == (3, 128)
    torch.testing.assert_close(network.latents(images), latents)
    torch.testing.assert_close(network(images), network.head(latents))
    torch.testing.assert_close(logits, network(images))


def test_eval_result_does_not_depend_on_the_batch():
    network = WideResNet(10, 1, classes=10).eval()
    images = torch.rand(5, 3, 32, 32)
    torch.testing.assert_close(network(images)[2:3], network(images[2:3]), atol=1e-5, rtol=1e-5)


def test_stored_network_comes_back_equal(tmp_path):
    network = WideResNet(10, 1, classes=4, dropout=0.1).eval()
    save_network(tmp_path / "n.safetensors", network)
    back = load_network(tmp_path / "n.safetensors")
    images = torch.rand(2, 3, 32, 32)
    assert back.settings == network.settings
    assert torch.equal(back(images), network(images))


def test_damaged_file_is_named(tmp_path):
    path = tmp_path / "n.safetensors"
    path.write_bytes(b"not a network")
    with pytest.raises(TrainingError, match=r"n\.safetensors"):
        load_network(path)
