"""VGG-16 for small images: its shape, and the whole way from training to a grid's classifier."""

import json
import sys

import pytest
import torch

from raypurify.errors import ConfigError, TrainingError
from raypurify.evaluation.specs import ClassifierSpec
from raypurify.evaluation.subjects import make_classifier
from raypurify.nets.dae import DenoisingAutoEncoder
from raypurify.nets.store import load_network, save_network
from raypurify.nets.vgg import VGG16


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return VGG16().eval()


def test_parameters_are_those_of_thirteen_convolutions_and_a_linear_layer(network):
    """14,710,464 of VGG-16's convolutions without biases, two for each of 4,224 channels, 512×10 + 10."""
    assert sum(p.numel() for p in network.parameters()) == 14_710_464 + 2 * 4_224 + 5_130
    assert sum(isinstance(module, torch.nn.Conv2d) for module in network.modules()) == 13


def test_logits_are_the_head_of_the_latents(network):
    images = torch.rand(2, 3, 64, 32)
    logits, latents = network(images, with_latents=True)
    assert latents.shape == (2, network.dim) == (2, 512)
    torch.testing.assert_close(logits, network.head(network.latents(images)))
    torch.testing.assert_close(logits, network(images))
    assert logits.std() > 1e-3


def test_a_grid_takes_the_file_of_a_training(network, tmp_path):
    save_network(tmp_path / "vgg.safetensors", network)
    made = make_classifier(ClassifierSpec(kind="vgg16", path=str(tmp_path / "vgg.safetensors")))
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(made(images), network(images))
    assert not any(p.requires_grad for p in made.parameters())
    save_network(tmp_path / "other.safetensors", DenoisingAutoEncoder(width=1))
    with pytest.raises(TrainingError, match="holds a DenoisingAutoEncoder, not a VGG16"):
        make_classifier(ClassifierSpec(kind="vgg16", path=str(tmp_path / "other.safetensors")))


def test_one_class_is_refused():
    with pytest.raises(ConfigError, match="classes=1"):
        VGG16(classes=1)


def test_the_script_trains_goes_on_and_tells(benchmark, data_dir, cifar_pictures, tmp_path, monkeypatch):
    """A few steps on few images; the second run has nothing left to do."""
    script = benchmark("train_vgg")
    monkeypatch.setattr(script, "split_images", lambda data, out, limit: cifar_pictures(limit))
    given = ["--data", data_dir, "--out", tmp_path, "--epochs", 1, "--images", 8, "--batch-size", 4]
    monkeypatch.setattr(sys, "argv", ["train_vgg.py", *map(str, given), "--test-images", "4"])
    script.main()
    facts = json.loads((tmp_path / "vgg.json").read_text())
    assert facts["command"].startswith("python benchmarks/train_vgg.py --data DIR --out RUN --epochs 1")
    assert (facts["images"], facts["test_images"]) == (8, 4)
    made = (tmp_path / "network.safetensors").read_bytes()
    script.main()
    assert (tmp_path / "network.safetensors").read_bytes() == made
    assert load_network(tmp_path / "network.safetensors", VGG16).settings == {"classes": 10}
