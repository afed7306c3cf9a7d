"""What every purifier in the registry keeps to, and with them those of bundles of every method."""

import pickle
from dataclasses import fields, is_dataclass, replace
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_bundles import WRITERS

import raypurify
from raypurify.errors import ConfigError, DataError
from raypurify.methods import METHODS
from raypurify.nets import WideResNet
from raypurify.nets.store import save_network
from raypurify.purifiers import PURIFIERS, Quilting
from raypurify.purifiers.learned import Learned
from raypurify.training.start import drawn_network

NAMES = [*METHODS, *PURIFIERS]
every_purifier = pytest.mark.parametrize("name", NAMES)
CLASSES = {name: made for name, made in PURIFIERS.items() if is_dataclass(made)}
RANDOM = [name for name, made in CLASSES.items() if "seed" in {field.name for field in fields(made)}]
DIFFERENTIABLE = [name for name, made in CLASSES.items() if made.differentiable]

# What they make of black is near to black: ComDefend, with its 12 bits, is off by 0.11 at worst.
REBUILT = [name for name, made in CLASSES.items() if issubclass(made, Learned | Quilting)]

SETTINGS = {
    "tvm": {"steps": 20},
    # One neighbour leaves nothing to draw.
    "quilting": {"neighbours": 3, "patches": 1000},
    "crop_ensemble": {"crops": 2, "steps": 5, "patches": 500},
    "denoiser": {"noise": 0.1},
    "deflection_ensemble": {"draws": 2},
}
WRONG = {
    "low_pass": [{"tikhonov": -1.0}, {"pad": -1}],
    "jpeg": [{"quality": 0}, {"quality": 75.5}],
    "bit_depth": [{"bits": 9}],
    "median": [{"size": 1}],
    "tvm": [{"drop": 1.0}, {"lmbda": 0.0}, {"steps": 0}],
    "pixel_deflection": [{"share": 0.0}, {"sigma": float("nan")}, {"window": 0}],
    "quilting": [
        {"bank": "no-file.safetensors"},
        {"patch": 1},
        {"patch": 33},
        {"patch": 5.0},
        {"overlap": 3},
        {"overlap": 2.0},
        {"overlap": 0},
        {"neighbours": 0},
        {"neighbours": 101, "patches": 100},
        {"patches": 0},
    ],
    "crop_ensemble": [{"crop": 1.0}, {"crops": 0}, {"drop": 1.0}, {"patches": 0}, {"bank": "no-file.safetensors"}],
    "deflection_ensemble": [
        {"share": 0.0},
        {"classes": 0},
        {"draws": 0},
        {"kind": "resnet"},
        {"classifier": None},
        {"classifier": "no-file.th"},
        {"classifier": "no-file.safetensors", "kind": "wide-resnet"},
    ],
    "nlm": [{"search": 4}, {"patch": 0}, {"h": 0.0}],
    "resize_pad": [{"smallest": 1.0}],
    "magnet": [{"weights": "no-file.safetensors"}],
    "denoiser": [{"weights": "no-file.safetensors"}, {"noise": -0.1}, {"noise": float("nan")}],
    "comdefend": [{"weights": "no-file.safetensors"}],
}


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Makes the purifier of a name, with quick settings unless given; skips where its library is not installed."""
    bundle = raypurify.load("cifar10")
    others = {name: raypurify.load(write(tmp_path_factory.mktemp(name))) for name, write in WRITERS.items()}
    made = others | {"rsfp": bundle}
    dictionary = tmp_path_factory.mktemp("dictionary") / "global.safetensors"
    save_file({"atoms": bundle.dictionaries[0].contiguous()}, dictionary)
    classifier = tmp_path_factory.mktemp("classifier") / "network.safetensors"
    save_network(classifier, drawn_network(partial(WideResNet, 10, 1, 10), seed=0))

    def make(name, **settings):
        if name in made:
            return made[name]
        if name == "rsfp_global":
            settings["dictionary"] = dictionary
        if name == "deflection_ensemble":
            settings |= {"kind": "wide-resnet", "classifier": classifier}
        try:
            return PURIFIERS[name](**SETTINGS.get(name, {}) | settings)
        except ConfigError as error:
            if "which is not installed" in str(error):
                pytest.skip(str(error))
            raise

    return make


@pytest.fixture(scope="module")
def odd(photographs):
    """Three images of 33×40."""
    return torch.nn.functional.interpolate(photographs[:3], (33, 40), mode="bilinear").clamp(0, 1)


@every_purifier
def test_every_image_keeps_its_size_and_comes_with_its_facts(name, make, odd):
    before = odd.clone()
    out = make(name).purify(odd)
    assert torch.equal(odd, before)
    assert out.images.shape == odd.shape
    assert out.images.dtype == torch.float32
    assert not out.images.requires_grad
    assert out.images.amin() >= 0
    assert out.images.amax() <= 1
    size = odd.flatten(1).norm(dim=1)
    torch.testing.assert_close(out.relative_change, (out.images - odd).flatten(1).norm(dim=1) / size)
    assert (out.relative_change > 0).all() or name == "none"
    facts = (out.cluster, out.distance, out.flagged, out.relative_change, out.iterations)
    assert [fact.dtype for fact in facts] == [torch.int64, torch.float32, torch.bool, torch.float32, torch.int64]
    assert {len(fact) for fact in facts} == {3}
    if name not in METHODS:
        assert (out.cluster == -1).all()
        assert out.distance.isnan().all()
        assert not out.flagged.any()
    # A sparse front end iterates nothing.
    assert (out.iterations > 0).all() == (name in {*METHODS, "rsfp_global"} - {"front_end"})


@every_purifier
def test_the_result_is_not_a_view_of_the_input(name, make, odd):
    images = odd.clone()
    make(name).purify(images).images.zero_()
    assert torch.equal(images, odd)


@every_purifier
def test_the_same_input_gives_the_same_output(name, make, odd):
    first = make(name).purify(odd)
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    again = make(name).purify(odd)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.iterations, again.iterations)


@every_purifier
def test_an_image_does_not_depend_on_its_batch(name, make, odd):
    purifier = make(name)
    together = purifier.purify(odd).images
    alone = torch.cat([purifier.purify(odd[i : i + 1]).images for i in range(3)])
    others = purifier.purify(torch.cat([odd.flip(0)[:2], 1 - odd, odd])).images[-3:]
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=0)
    torch.testing.assert_close(others, together, atol=1e-5, rtol=0)


@every_purifier
def test_black_white_and_grey_images_are_fine(name, make):
    ramp = torch.linspace(0, 1, 12).expand(3, 9, 12)
    images = torch.stack([torch.zeros(3, 9, 12), torch.ones(3, 9, 12), ramp])
    out = make(name).purify(images)
    assert out.images.isfinite().all()
    assert out.relative_change.isfinite().all()
    # What a decoder that has learned nothing makes of no code is grey of some kind.
    if name != "front_end":
        torch.testing.assert_close(out.images[0], images[0], atol=0.15 if name in REBUILT else 1e-6, rtol=0)


@every_purifier
def test_other_layouts_precisions_and_no_images_are_fine(name, make, odd):
    purifier = make(name)
    out = purifier.purify(odd).images
    torch.testing.assert_close(purifier.purify(odd.double()).images, out, atol=1e-5, rtol=0)
    channels_last = odd.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(purifier.purify(channels_last).images, out, atol=1e-5, rtol=0)
    needs_grad = odd.clone().requires_grad_()
    assert torch.equal(purifier.purify(needs_grad).images, out)
    empty = purifier.purify(odd[:0])
    assert empty.images.shape == (0, 3, 33, 40)
    assert len(empty.cluster) == len(empty.relative_change) == 0


@every_purifier
def test_the_smallest_images_are_purified_and_smaller_ones_refused(name, make):
    purifier = make(name)
    side = purifier.min_size
    smallest = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    assert purifier.purify(smallest).images.shape == smallest.shape
    with pytest.raises(DataError, match="smaller than"):
        purifier.purify(torch.zeros(1, 3, side - 1, 40))


@every_purifier
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(3, 32, 32), "(N, 3, H, W)"),
        (torch.zeros(1, 1, 32, 32), "(N, 3, H, W)"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "floating-point"),
        (torch.full((1, 3, 32, 32), 255.0), "in [0, 1]"),
        (torch.full((1, 3, 32, 32), float("nan")), "finite"),
        (np.zeros((1, 32, 32, 3), np.uint8), "a tensor (N, 3, H, W) in [0, 1], not ndarray"),
        ("photo.png", "not str"),
        (torch.zeros(1, 3, 32, 32).to_sparse(), "dense"),
        (torch.zeros(1, 3, 32, 32, device="meta"), "dense"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.float8_e4m3fn), "floating-point"),
    ],
)
def test_bad_tensors_are_named(name, bad, message, make):
    with pytest.raises(DataError) as error:
        make(name).purify(bad)
    assert message in str(error.value)


@pytest.mark.parametrize("name", PURIFIERS)
def test_a_purifier_travels_to_other_processes(name, make, odd):
    purifier = make(name)
    assert torch.equal(pickle.loads(pickle.dumps(purifier)).purify(odd).images, purifier.purify(odd).images)


@pytest.mark.parametrize("name", PURIFIERS)
def test_settings_are_frozen(name, make):
    assert is_dataclass(make(name))
    with pytest.raises(AttributeError):
        make(name).anything = 1


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_those_that_say_so_can_be_differentiated(name, make, odd):
    images = odd[:1].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(make(name).transform(images).square().sum(), images)
    assert gradient.isfinite().all()
    assert gradient.any()


@pytest.mark.parametrize("name", RANDOM)
def test_randomness_comes_from_the_seed_and_the_image(name, make, odd):
    purifier = make(name)
    first = purifier.purify(odd[:1]).images
    other = replace(purifier, seed=1).purify(odd[:1]).images
    assert not torch.equal(first, other)
    for seed in (-1, 0.5):
        with pytest.raises(ConfigError, match="seed="):
            replace(purifier, seed=seed)


def test_some_are_random_and_some_differentiable():
    assert {"tvm", "resize_pad", "quilting", "crop_ensemble", "deflection_ensemble"} <= set(RANDOM)
    differentiable = {"none", "low_pass", "median", "tvm", "resize_pad", "magnet", "denoiser", "comdefend"}
    assert differentiable <= set(DIFFERENTIABLE)
    assert not {"jpeg", "quilting"} & set(DIFFERENTIABLE)
    assert "jpeg" not in RANDOM


COUNTS = [
    (name, field.name)
    for name, purifier in PURIFIERS.items()
    if isinstance(purifier, type) and is_dataclass(purifier)
    for field in fields(purifier)
    if field.init and field.type is int and field.name != "seed"
]


@pytest.mark.parametrize(("name", "count"), COUNTS)
def test_a_count_that_would_take_all_memory_or_never_end_is_named(name, count, make):
    make(name)
    with pytest.raises(ConfigError, match=f"{count}="):
        PURIFIERS[name](**{count: 10**12})


@pytest.mark.parametrize(("name", "settings"), [(name, wrong) for name, some in WRONG.items() for wrong in some])
def test_settings_out_of_range_are_named(name, settings, make):
    make(name)
    with pytest.raises(ConfigError, match=f"{next(iter(settings))}="):
        PURIFIERS[name](**settings)
