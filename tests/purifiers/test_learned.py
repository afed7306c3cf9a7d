"""The learned comparators: what they are trained for, their weights, and the script that trains them."""

import copy
import hashlib
import json
import sys

import numpy as np
import pytest
import torch

from raypurify.errors import ConfigError
from raypurify.modules import PurifierModule
from raypurify.nets import WideResNet
from raypurify.nets.compression import CompressionNetwork
from raypurify.nets.dncnn import DnCNN
from raypurify.nets.reformer import Reformer
from raypurify.nets.store import save_network
from raypurify.purifiers import PURIFIERS, ComDefend, Denoiser, MagNet
from raypurify.purifiers.learned import FOLDER
from raypurify.training.data import ImageSet
from raypurify.training.denoising import noised, psnr

LEARNED = {"magnet": MagNet, "denoiser": Denoiser, "comdefend": ComDefend}
NAMES = list(LEARNED)


@pytest.mark.parametrize("name", NAMES)
def test_shipped_weights_are_small_and_those_that_the_code_names(name):
    data = (FOLDER / f"{name}.safetensors").read_bytes()
    assert len(data) < 450_000
    assert hashlib.sha256(data).hexdigest() == LEARNED[name].shipped == PURIFIERS[name]().digest


@pytest.mark.parametrize(("name", "least"), [("magnet", 25.0), ("denoiser", 29.0), ("comdefend", 25.0)])
def test_clean_images_are_rebuilt(name, least, photographs):
    assert psnr(PURIFIERS[name]().purify(photographs).images, photographs).mean() > least


def test_the_denoiser_takes_noise_away(photographs):
    for level in (0.05, 0.1, 0.2):
        images = noised(photographs, torch.full((len(photographs),), level), torch.Generator().manual_seed(0))
        gain = psnr(Denoiser().purify(images).images, photographs) - psnr(images, photographs)
        assert gain.mean() > 1.5


@pytest.mark.parametrize("name", ["magnet", "denoiser"])
def test_the_gradient_is_exact(name, photographs):
    """Against central differences along a direction, of the same layers in double precision."""
    purifier = PURIFIERS[name]()
    layers = copy.deepcopy(purifier._network).double().layers

    def exact(images):
        return torch.sigmoid(layers(images)) if name == "magnet" else images - layers(images)

    images = photographs[:1].clone().requires_grad_()
    direction = torch.randn(images.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(_value(purifier.transform(images)), images)
    with torch.no_grad():
        ahead, behind = (_value(exact(images.double() + step * direction)) for step in (1e-6, -1e-6))
    assert (gradient * direction).sum().item() == pytest.approx((ahead - behind).item() / 2e-6, rel=1e-4)


def _value(out):
    return (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum()


@pytest.mark.parametrize("name", NAMES)
def test_weights_of_ones_own(name, photographs, tmp_path):
    made = {"magnet": Reformer(width=3), "denoiser": DnCNN(width=3, depth=3), "comdefend": CompressionNetwork(width=1)}
    network = made[name].eval()
    torch.nn.init.normal_(list(network.parameters())[-2], std=0.1)
    path = tmp_path / "own.safetensors"
    save_network(path, network)
    purifier = PURIFIERS[name](weights=str(path))
    with torch.no_grad():
        torch.testing.assert_close(purifier.purify(photographs).images, network(photographs).clamp(0, 1))
    assert purifier.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    first, other = (PurifierModule(one).state_dict() for one in (PURIFIERS[name](), purifier))
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", NAMES)
def test_weights_that_are_none_are_named(name, tmp_path):
    with pytest.raises(ConfigError, match=r"weights='/no/file\.safetensors'"):
        PURIFIERS[name](weights="/no/file.safetensors")
    save_network(tmp_path / "wrn.safetensors", WideResNet(10, 1, 2))
    with pytest.raises(ConfigError, match=r"wrn\.safetensors holds a WideResNet"):
        PURIFIERS[name](weights=tmp_path / "wrn.safetensors")


def test_the_residual_denoiser_subtracts_what_it_takes_for_noise(photographs):
    network = DnCNN(width=4, depth=4).eval()
    assert torch.equal(network(photographs), photographs)
    torch.nn.init.normal_(network.layers[-1].weight, std=0.1)
    torch.testing.assert_close(network(photographs), photographs - network.layers(photographs))
    assert [type(layer).__name__ for layer in network.layers] == [
        *("Conv2d", "ReLU"),
        *("Conv2d", "BatchNorm2d", "ReLU") * 2,
        "Conv2d",
    ]


@pytest.mark.parametrize(("make", "settings"), [(Reformer, {"width": 0}), (DnCNN, {"width": 0}), (DnCNN, {"depth": 1})])
def test_networks_out_of_range_are_named(make, settings):
    with pytest.raises(ConfigError, match=f"{next(iter(settings))}="):
        make(**settings)


@pytest.mark.parametrize("name", NAMES)
def test_the_script_trains_and_measures(name, benchmark, photographs, tmp_path, monkeypatch):
    script = benchmark("denoisers")
    pixels = (photographs * 255).round().byte().numpy()
    images = ImageSet(np.arange(96), np.zeros(96, np.int64), np.tile(pixels, (8, 1, 1, 1)))
    monkeypatch.setattr(script, "split_images", lambda data, out, limit: (images, images.take(np.arange(12))))
    threads = torch.get_num_threads()
    given = ["--data", "x", "--out", tmp_path, "--only", name, "--epochs", 1, "--results", tmp_path / "r.json"]
    monkeypatch.setattr(sys, "argv", ["denoisers.py", *map(str, given)])
    script.main()
    torch.set_num_threads(threads)
    found = json.loads((tmp_path / "r.json").read_text())[name]
    assert found["command"] == (
        f"python benchmarks/denoisers.py --data DIR --out RUN --only {name} --epochs 1 --results RESULTS"
    )
    assert found["psnr"]["0.1"]["input"] == pytest.approx(20, abs=0.7)
    assert found["images"] == 96
    purifier = PURIFIERS[name](weights=tmp_path / f"{name}.safetensors")
    assert purifier.purify(photographs).images.shape == photographs.shape
