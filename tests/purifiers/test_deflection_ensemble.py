"""PD-Ens: what the map spares, and that the result is the mean of its draws."""

import numpy as np
import pytest
import torch

from raypurify.errors import ConfigError
from raypurify.nets.activations import robust_activation_map
from raypurify.nets.store import load_network, save_network
from raypurify.nets.vgg import VGG16
from raypurify.nets.wide_resnet import WideResNet
from raypurify.purifiers import DeflectionEnsemble
from raypurify.purifiers.pixel_deflection import deflect
from raypurify.purifiers.transform import generator_of
from raypurify.training.start import drawn_network


@pytest.fixture
def classifier(tmp_path):
    path = tmp_path / "network.safetensors"
    save_network(path, drawn_network(lambda: WideResNet(10, 1, 10), seed=0))
    return path


@pytest.fixture
def places():
    """An image whose values are its places, (40, 50, 2)."""
    return np.stack(np.mgrid[:40, :50], axis=2).astype(np.float32)


def test_pixels_are_deflected_as_the_map_says(places):
    """Nothing where it is 1, and elsewhere in proportion to what is left of 1."""
    spared = np.zeros((40, 50), np.float32)
    spared[:, :25], spared[:10, 25:] = 1, 0.75
    moved = np.zeros((40, 50))
    for seed in range(60):
        moved += (deflect(places, 60, 6, np.random.default_rng(seed), spared) != places).any(2)
    assert not moved[:, :25].any()
    assert moved[:10, 25:].mean() == pytest.approx(moved[10:, 25:].mean() / 4, rel=0.25)


def test_a_map_of_nothing_spares_none(places):
    moved = (deflect(places, 400, 3, np.random.default_rng(0), np.zeros((40, 50))) != places).any(2)
    assert 320 <= moved.sum() <= 400
    assert moved[:, :25].mean() == pytest.approx(moved[:, 25:].mean(), abs=0.08)


def test_the_result_is_the_mean_of_draws_under_the_classifiers_map(classifier, photographs):
    restoration = pytest.importorskip("skimage.restoration")
    purifier = DeflectionEnsemble(kind="wide-resnet", classifier=classifier, share=0.1, draws=3, classes=2, seed=5)
    image = photographs[:1]
    spared = robust_activation_map(load_network(classifier), image, count=2)[0].numpy()
    pixels = np.ascontiguousarray(image[0].permute(1, 2, 0).numpy())
    rng = generator_of(pixels, 5)
    settings = {"sigma": 0.04, "method": "BayesShrink", "mode": "soft", "convert2ycbcr": True, "channel_axis": -1}
    draws = [restoration.denoise_wavelet(deflect(pixels, 102, 10, rng, spared), **settings) for _ in range(3)]
    mean = torch.from_numpy(np.mean(draws, axis=0)).permute(2, 0, 1).float().clamp(0, 1)
    assert torch.equal(purifier.purify(image).images[0], mean)


def test_more_draws_have_less_noise_of_their_own(classifier, photographs):
    def spread(draws):
        settings = {"kind": "wide-resnet", "classifier": classifier, "share": 0.05, "draws": draws}
        one, other = (DeflectionEnsemble(seed=seed, **settings).purify(photographs[:4]).images for seed in (0, 1))
        return (one - other).square().mean().sqrt()

    pytest.importorskip("skimage")
    assert spread(8) < 0.6 * spread(1)


def test_classifiers_that_do_not_serve_are_named(classifier, tmp_path):
    pytest.importorskip("skimage")
    first = DeflectionEnsemble(kind="wide-resnet", classifier=str(classifier))
    save_network(tmp_path / "other.safetensors", drawn_network(lambda: WideResNet(10, 1, 10), seed=1))
    assert first.digest != DeflectionEnsemble(kind="wide-resnet", classifier=tmp_path / "other.safetensors").digest
    save_network(tmp_path / "vgg.safetensors", VGG16(classes=2))
    with pytest.raises(ConfigError, match=r"classifier=.*vgg\.safetensors holds a VGG16, not a WideResNet"):
        DeflectionEnsemble(kind="wide-resnet", classifier=tmp_path / "vgg.safetensors")
    with pytest.raises(ConfigError, match=r"classifier='vgg16': .*weights"):
        DeflectionEnsemble(kind="torchvision", classifier="vgg16")
