"""A purifier as a module of torch: in networks and transforms, saved and loaded, attacked by other libraries."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load, save
from torch import nn
from torch.nn.functional import cross_entropy

import raypurify
from raypurify.attacks import PGD
from raypurify.attacks.adaptive import bpda, smooth_surrogate, through_solver
from raypurify.errors import ConfigError, DataError
from raypurify.images import to_pixels
from raypurify.modules import MODES, PurifierModule
from raypurify.nets.torchvision_nets import torchvision_models
from raypurify.purifiers import JPEG, PURIFIERS, GlobalRSFP, LowPass

EPS, STEP, STEPS = 2 / 255, 0.7 / 255, 3


@pytest.fixture(scope="module")
def purifier():
    return raypurify.load("cifar10")


@pytest.fixture(scope="module")
def images(photographs):
    return photographs


@pytest.fixture(scope="module")
def whole(purifier):
    return nn.Sequential(PurifierModule(purifier), purifier.network).eval()


def slope(model, images):
    x = images.clone().requires_grad_()
    return torch.autograd.grad((model(x) * torch.linspace(-1, 1, x[0].numel()).view_as(x[0])).sum(), x)[0]


def test_values_are_the_purifiers_and_gradients_those_of_its_mode(purifier, images):
    expected = purifier.purify(images).images
    modules = {mode: PurifierModule(purifier, mode) for mode in MODES}
    assert all(torch.equal(module(images), expected) for module in modules.values())

    def purify(x):
        return purifier.purify(x).images

    models = {
        "bpda": bpda(lambda x: x, purify),
        "bpda-smooth": bpda(lambda x: x, purify, smooth_surrogate(purifier)),
        "implicit": through_solver(lambda x: x, purifier),
    }
    found = {mode: slope(modules[mode], images[:1]) for mode in models}
    for mode, model in models.items():
        torch.testing.assert_close(found[mode], slope(model, images[:1]), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found["bpda"], found["implicit"], atol=0.1)
    assert not modules["none"](images.clone().requires_grad_()).requires_grad


def test_a_purifier_without_a_solver_has_its_own_gradient_or_says_that_it_has_none(images):
    own = PurifierModule(LowPass(), "implicit")
    torch.testing.assert_close(own(images), LowPass().purify(images).images)
    torch.testing.assert_close(slope(own, images), slope(LowPass().transform, images))
    with pytest.raises(ConfigError, match="JPEG has no gradient of its own: choose mode='bpda'"):
        PurifierModule(JPEG(), "implicit")
    with pytest.raises(ConfigError, match="unknown mode 'exact': choose one of bpda, "):
        PurifierModule(JPEG(), "exact")
    assert {PurifierModule(PURIFIERS[name]())(images).shape for name in ("none", "low_pass", "median")} == {
        images.shape
    }


def test_images_come_back_in_their_own_kind(purifier, images):
    module, expected = PurifierModule(purifier), purifier.purify(images).images
    assert torch.equal(module(images[0]), purifier.purify(images[:1]).images[0])
    assert module(images[:0]).shape == (0, 3, 32, 32)
    pixels = (images * 255).round().byte()
    assert torch.equal(module(pixels).permute(0, 2, 3, 1), torch.from_numpy(np.stack([*map(to_pixels, expected)])))
    for dtype in (torch.float64, torch.bfloat16):
        assert module(images.to(dtype)).dtype == dtype
    for wrong, said in (
        (Image.new("RGB", (32, 32)), r"not Image: .*ToImage\(\) makes one"),
        (images[0, 0], "of shape"),
    ):
        with pytest.raises(DataError, match=said):
            module(wrong)
    with pytest.raises(DataError, match="finite and in"):
        module(images * 255)


def test_it_is_a_transform_of_torchvision(purifier, images):
    torchvision_models()
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    module = PurifierModule(purifier, "none")
    scaled = v2.ToDtype(torch.float32, scale=True)
    done = v2.Compose([v2.ToImage(), module, scaled, v2.Normalize([0.5] * 3, [0.25] * 3)])(
        Image.fromarray(to_pixels(images[0].numpy()))
    )
    assert isinstance(done, tv_tensors.Image)
    torch.testing.assert_close(done.as_subclass(torch.Tensor), (module((images[0] * 255).byte()) / 255 - 0.5) / 0.25)


def test_it_stays_itself_in_training_under_autocast_and_in_half(purifier, images):
    module, expected = PurifierModule(purifier), purifier.purify(images).images
    whole = nn.Sequential(module, nn.Conv2d(3, 2, 3)).train()
    assert len(list(whole.parameters())) == 2
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module(images), expected)
        assert whole(images).dtype == torch.bfloat16
    assert torch.equal(module.half()(images), expected)
    assert not purifier.network.training


def test_its_state_is_a_digest_that_another_purifier_refuses(purifier, images):
    whole = nn.Sequential(PurifierModule(purifier), nn.Conv2d(3, 2, 3))
    state = load(save(whole.state_dict()))
    assert state.keys() == {"0._extra_state", "1.weight", "1.bias"}
    again = nn.Sequential(PurifierModule("cifar10", "none"), nn.Conv2d(3, 2, 3))
    again.load_state_dict(state)
    assert torch.equal(again(images), whole(images))
    atoms = purifier.dictionaries[0]
    for other in (JPEG(), GlobalRSFP(atoms), GlobalRSFP(atoms.flip(0))):
        one = PurifierModule(other)
        one.load_state_dict(PurifierModule(other).state_dict())
        for stranger in (purifier, JPEG(quality=7), GlobalRSFP(atoms + 0)):
            if not (isinstance(other, GlobalRSFP) and isinstance(stranger, GlobalRSFP) and other.dictionary is atoms):
                with pytest.raises(ConfigError, match="saved with another purifier"):
                    one.load_state_dict(PurifierModule(stranger).state_dict())


@pytest.mark.gpu
def test_it_moves_to_cuda_and_leaves_the_purifier_where_it_is(purifier, images):
    whole = nn.Sequential(PurifierModule(purifier, "implicit"), nn.Conv2d(3, 2, 3)).cuda()
    assert purifier.device.type == next(purifier.network.parameters()).device.type == "cpu"
    x = images.cuda().requires_grad_()
    with torch.autocast("cuda", torch.float16):
        logits = whole(x).float().sum()
    assert torch.autograd.grad(logits, x)[0].is_cuda
    torch.testing.assert_close(whole[0](images.cuda()).cpu(), purifier.purify(images).images, rtol=0, atol=2e-3)
    assert whole.cpu()[0](images).device.type == "cpu"


def loss(model, images, labels):
    with torch.no_grad():
        return float(cross_entropy(model(images), labels))


@pytest.fixture(scope="module")
def labels(whole, images):
    with torch.no_grad():
        return whole(images).argmax(1)


def test_foolbox_differentiates_the_whole_as_we_do(whole, images, labels):
    foolbox = pytest.importorskip("foolbox")
    images, labels = images[:2], labels[:2]
    model = foolbox.PyTorchModel(whole, bounds=(0, 1), device="cpu")
    ours = PGD(eps=EPS, step_size=STEP, steps=STEPS, random_start=False)(whole, images, labels)
    theirs, drawn = (
        foolbox.attacks.LinfPGD(abs_stepsize=STEP, steps=STEPS, random_start=drawn)(
            model, images, labels, epsilons=EPS
        )[1]
        for drawn in (False, True)
    )
    assert ((theirs - ours).abs() < 1e-6).float().mean() > 0.98
    assert loss(whole, ours, labels) > 1.05 * loss(whole, images, labels)
    assert loss(whole, drawn, labels) == pytest.approx(loss(whole, ours, labels), rel=0.05)


def test_autoattack_and_torchattacks_take_the_whole(purifier, images, labels):
    whole = nn.Sequential(PurifierModule(LowPass()), purifier.network).eval()
    images, labels = images[:2], labels[:2]
    autoattack = pytest.importorskip("pyautoattack")
    attack = autoattack.AutoAttack(whole, norm="Linf", eps=EPS, version="custom", attacks=["apgd-ce"], seed=0)
    attack.apgd.n_iter, attack.apgd.n_restarts = 2, 1
    found, _ = attack.run_standard_evaluation(images, labels, batch_size=2)
    assert (found - images).abs().max() <= EPS + 1e-6
    torchattacks = pytest.importorskip("torchattacks")
    theirs = torchattacks.PGD(whole, eps=EPS, alpha=STEP, steps=2, random_start=False)(images, labels)
    ours = PGD(eps=EPS, step_size=STEP, steps=2, random_start=False)(whole, images, labels)
    assert ((theirs - ours).abs() < 1e-6).float().mean() > 0.98
