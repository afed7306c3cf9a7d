"""The sparse front end: its encoder against one written without batches, its promise about signs, its decoder."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from raypurify.errors import ConfigError
from raypurify.fronts import LEARNERS
from raypurify.nets.front_classifiers import NETWORKS, PRETRAINED
from raypurify.nets.front_decoder import FrontDecoder
from raypurify.nets.front_encoder import FrontEncoder
from raypurify.nets.front_end import DefendedClassifier, FrontEnd
from raypurify.nets.front_gradient import decoded_through
from raypurify.nets.front_strips import in_strips
from raypurify.nets.store import load_network, save_network

EPS = 8 / 255


def encoder_of(**settings: object) -> FrontEncoder:
    """One with 60 random atoms, some of which respond to edges: of mean 0."""
    torch.manual_seed(0)
    atoms = torch.randn(60, 3, 4, 4)
    atoms[:30] -= atoms[:30].mean((1, 2, 3), keepdim=True)
    return FrontEncoder(**{"atoms": 60, "top": 12, "dropout": 0.5} | settings).fill(atoms)


def images_of(count: int = 3, height: int = 12, width: int = 10) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def patch_by_patch(encoder: FrontEncoder, image: Tensor, dropped: Tensor) -> Tensor:
    """The code (L, m, n) of one image by the paper's section 2.2, a patch and an atom at a time; sides fit patches."""
    atoms = encoder.dictionary.flatten(1).double().numpy()
    size, stride = encoder.size, encoder.stride
    rows, columns = ((side - size) // stride + 1 for side in image.shape[-2:])
    code = np.zeros((len(atoms), rows, columns))
    for i in range(rows):
        for j in range(columns):
            patch = image[:, i * stride : i * stride + size, j * stride : j * stride + size].double().numpy().ravel()
            projected = [float(atom @ patch) for atom in atoms]
            largest = sorted(range(len(atoms)), key=lambda k: -abs(projected[k]))[: encoder.top]
            for k in largest:
                norm = float(np.abs(atoms[k]).sum())
                if dropped[k, i, j]:
                    continue
                if not encoder.quantise:
                    code[k, i, j] = projected[k]
                elif abs(projected[k]) / (encoder.eps * norm) >= encoder.beta:
                    code[k, i, j] = np.sign(projected[k]) * norm
    return torch.from_numpy(code).float()


@pytest.mark.parametrize("left_out", [{}, {"top": None}, {"dropout": 0.0}, {"quantise": False}], ids=str)
def test_codes_are_those_of_the_paper_a_patch_at_a_time(left_out):
    encoder, images = encoder_of(**left_out), images_of()
    seeds = 100 * torch.arange(3)
    codes = encoder.code(images, seeds)
    assert codes.shape == (3, 60, 5, 4)
    for image, seed, code in zip(images, seeds, codes):
        rows = [torch.rand(60, 4, generator=torch.Generator().manual_seed(int(seed) + row)) for row in range(5)]
        chance = torch.stack(rows, 1)
        torch.testing.assert_close(code, patch_by_patch(encoder, image, chance < encoder.dropout))
    assert codes.count_nonzero() > 30


@pytest.mark.parametrize(("height", "width"), [(12, 12), (11, 13)])
@pytest.mark.parametrize("how", [{"top": None, "dropout": 0.0}, {}], ids=["all entries", "some"])
def test_no_perturbation_within_eps_changes_the_sign_of_an_entry(height, width, how):
    """Equation 3 and Hölder's inequality: for random perturbations, and for those that an atom's signs make at every
    patch, which move its projections as far as any."""
    encoder, images, seeds = encoder_of(beta=1.01, **how), images_of(2, height, width), torch.arange(2)
    clean = encoder.code(images, seeds)
    generator = torch.Generator().manual_seed(2)
    perturbations = [EPS * (2 * torch.rand(images.shape, generator=generator) - 1) for _ in range(5)]
    perturbations += [EPS * torch.randn(images.shape, generator=generator).sign() for _ in range(5)]
    for atom in encoder.dictionary[:40].sign():
        pattern = torch.zeros_like(images)
        for y in range(0, height - 3, 4):
            for x in range(0, width - 3, 4):
                pattern[:, :, y : y + 4, x : x + 4] = atom
        perturbations += [EPS * pattern, -EPS * pattern]
    moved = 0
    for perturbation in perturbations:
        code = encoder.code(images + perturbation, seeds)
        assert (code * clean >= 0).all()
        moved += int((code != clean).sum())
    # They do change the code: the property is about signs.
    assert moved > 1000


def test_the_strongest_perturbation_moves_a_projection_by_eps_times_the_norm():
    """Hölder's inequality is tight, so that a threshold below ε·‖d‖₁ would let a sign change."""
    encoder = encoder_of()
    image = torch.full((1, 3, 4, 4), 0.5)
    for k in range(0, 60, 7):
        moved = encoder.project(image + EPS * encoder.dictionary[k].sign()) - encoder.project(image)
        torch.testing.assert_close(moved[0, k].squeeze(), EPS * encoder.norms[k].squeeze(), rtol=1e-4, atol=1e-6)
        assert (moved[0].abs() <= EPS * encoder.norms * (1 + 1e-4)).all()


def test_entries_that_a_threshold_below_eps_lets_through_do_change_sign():
    """What the property test would find if β were 1 at most: here β is made small behind the check."""
    encoder = encoder_of(top=None, dropout=0.0)
    encoder.beta = 0.1
    step = EPS * encoder.dictionary[0].sign()
    clean, attacked = (encoder.code(0.5 + times * step[None])[0, 0] for times in (0.3, -0.7))
    assert clean > 0
    assert attacked < 0


def test_atoms_of_norm_1_stay_as_they_are_to_the_bit():
    """Other atoms by a rounding, other projections by a rounding: and of two that are nearly equal, another is kept."""
    atoms = torch.randn(400, 3, 4, 4, generator=torch.Generator().manual_seed(7), dtype=torch.double)
    unit = (atoms / atoms.flatten(1).norm(dim=1).view(-1, 1, 1, 1)).float()
    encoder = FrontEncoder(atoms=400, top=15, dropout=0.0).fill(unit)
    assert torch.equal(encoder.dictionary, unit)
    # Scaled in float32 some would not.
    assert not torch.equal(unit / unit.flatten(1).norm(dim=1).view(-1, 1, 1, 1), unit)
    assert torch.equal(encoder.fill(4 * unit).dictionary, unit)


def test_of_equal_projections_there_are_never_more_than_t():
    """No rule says which of them is kept, here as in the authors' code: any, but T of them."""
    atom = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(8))
    encoder = FrontEncoder(atoms=6, top=3, dropout=0.0).fill(atom.expand(6, -1, -1, -1))
    images = torch.cat([images_of(1), torch.zeros(1, 3, 12, 10)])
    assert (encoder.survivors(images).kept.sum(1) == 3).all()
    counts = (encoder.code(images) != 0).sum(1)
    assert counts.flatten(1).amax(1).tolist() == [3, 0]


def test_seeds_decide_what_is_dropped_whatever_the_batch():
    encoder, images = encoder_of(), images_of(4)
    seeds = torch.tensor([5, 6, 5, 7])
    kept = encoder.survivors(images, seeds).kept
    alone = [encoder.survivors(images[i : i + 1], seeds[i : i + 1]).kept[0] for i in range(4)]
    assert torch.equal(kept, torch.stack(alone))
    again = encoder.survivors(images[:1], torch.tensor([8])).kept
    assert not torch.equal(again[0], kept[0])
    drawn = [encoder.code(images, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*drawn)


def test_a_share_of_the_largest_is_left():
    encoder = encoder_of(dropout=0.95)
    images = images_of(40, 20, 20)
    left = encoder.survivors(images, torch.Generator().manual_seed(0)).kept.float().sum(1)
    assert left.mean().item() == pytest.approx(0.05 * 12, abs=0.03)
    assert encoder_of(dropout=0.0).survivors(images).kept.sum(1).unique().tolist() == [12]


def test_gradients_come_through_what_is_kept_alone():
    encoder, images = encoder_of(), images_of(1).requires_grad_()
    found = encoder.survivors(images, torch.tensor([0]))
    (gradient,) = torch.autograd.grad(found.values.sum(), found.projections)
    assert torch.equal(gradient, found.kept.float())


def test_patches_that_do_not_fit_see_repeated_borders():
    encoder, images = encoder_of(dropout=0.0), images_of(1, 11, 9)
    wider = torch.nn.functional.pad(images, (0, 1, 0, 1), mode="replicate")
    assert torch.equal(encoder.code(images), encoder.code(wider))


def test_a_dictionary_is_scaled_to_norm_one():
    encoder = FrontEncoder(atoms=2, size=2, stride=1, top=1).fill(torch.full((2, 3, 2, 2), 7.0))
    torch.testing.assert_close(encoder.dictionary.flatten(1).norm(dim=1), torch.ones(2))
    torch.testing.assert_close(encoder.norms.flatten(), torch.full((2,), 12**0.5))
    torch.testing.assert_close(encoder.thresholds, 3 * EPS * encoder.norms)


@pytest.mark.parametrize(
    "wrong",
    [{"atoms": 0}, {"stride": 5}, {"top": 0}, {"top": 61}, {"dropout": 1.0}, {"beta": 1.0}, {"eps": -0.1}],
    ids=str,
)
def test_settings_out_of_range_are_named(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        encoder_of(**wrong)


def test_dropping_without_draws_is_refused():
    with pytest.raises(ConfigError, match="draws"):
        encoder_of().code(images_of())


def test_the_decoder_has_the_sizes_of_the_authors():
    """Of codes of 15 × 15 × 500 it makes 32², of which nothing is left out in the middle of 36²."""
    decoder = FrontDecoder()
    shapes = {tuple(value.shape) for value in decoder.parameters() if value.ndim == 4}
    assert shapes == {(500, 300, 4, 4), (300, 100, 3, 3), (100, 3, 3, 3)}
    with torch.no_grad():
        code = torch.randn(1, 500, 15, 15)
        images = decoder(code, (32, 32))
        whole = decoder(code, (34, 34))
    assert images.shape == (1, 3, 32, 32)
    assert images.min() >= 0
    assert images.max() <= 1
    assert torch.equal(images, whole[..., :32, :32])


@pytest.mark.parametrize(("size", "stride", "side"), [(4, 2, 32), (8, 4, 160), (4, 2, 33), (5, 3, 20)])
def test_images_come_back_at_their_size_and_patches_at_their_places(size, stride, side):
    """A code of one patch changes pixels near that patch alone."""
    torch.manual_seed(0)
    network = FrontEnd(atoms=30, size=size, stride=stride, top=5, channels=(4, 3)).eval()
    network.encoder.fill(torch.randn(30, 3, size, size))
    with torch.no_grad():
        assert network(torch.rand(1, 3, side, side), torch.tensor([0])).shape == (1, 3, side, side)
        places = -(-(side - size) // stride) + 1
        code = torch.zeros(1, 30, places, places)
        code[0, :, 1, 2] = 5 * torch.randn(30)
        network.decoder.coloured.bias.fill_(0.5)
        changed = network.decoder(code, (side, side)) - network.decoder(torch.zeros_like(code), (side, side))
    rows, columns = changed.abs().sum((0, 1)).nonzero().unbind(1)
    for along, at in ((rows, stride), (columns, 2 * stride)):
        assert at - 2 <= along.min()
        assert along.max() < at + size + 2


def decoding_front(size: int, stride: int) -> FrontEnd:
    """One whose pixels depend on their neighbours, whatever the code there."""
    torch.manual_seed(0)
    network = FrontEnd(atoms=30, size=size, stride=stride, top=5, dropout=0.5, channels=(4, 3)).eval()
    network.encoder.fill(torch.randn(30, 3, size, size))
    # Without a bias above 0 the rows that a strip lacks could not show.
    network.decoder.mixed.bias.data.fill_(0.3)
    return network.requires_grad_(False)


@pytest.mark.parametrize(("size", "stride"), [(4, 2), (5, 3), (3, 3), (8, 1)])
def test_a_large_image_in_strips_is_what_it_is_whole(size, stride):
    network = decoding_front(size, stride)
    images, seeds = images_of(3, 41, 17), torch.tensor([1, 2, 3])
    with torch.no_grad():
        whole = network(images, seeds)
        for most in (1, 17 * 9, 17 * 40, 17 * 41 * 2, 10**6):
            torch.testing.assert_close(in_strips(network.encoder, network.decoder, images, seeds, most), whole)
    assert whole.std() > 0.01


@pytest.mark.parametrize("sigma", [None, 0.25])
@pytest.mark.parametrize(("size", "stride"), [(4, 2), (5, 3), (8, 4)])
def test_the_gradient_of_a_large_image_in_strips_is_that_of_the_whole(size, stride, sigma):
    network, seeds, kept = decoding_front(size, stride), torch.tensor([1, 2]), []
    images = images_of(2, 41, 17).requires_grad_()
    weights = torch.randn(images.shape, generator=torch.Generator().manual_seed(2))

    def gradient(most: int) -> Tensor:
        sizes = []

        def kept_for_later(tensor: Tensor) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(kept_for_later, lambda tensor: tensor):
            made = decoded_through(network.encoder, network.decoder, images, seeds, sigma, most=most)
        kept.append(sum(sizes))
        torch.testing.assert_close(made, network(images, seeds))
        return torch.autograd.grad((made * weights).sum(), images)[0]

    whole = gradient(10**6)
    assert whole.abs().amax() > 0
    for most in (1, 17 * 9, 17 * 40):
        torch.testing.assert_close(gradient(most), whole, rtol=1e-4, atol=1e-5)
    # Of the codes of strips none waits for the gradient, of which the whole keeps several.
    assert kept[-1] < kept[0] / 5


def test_projections_are_rounded_as_float32_wherever_they_are_made():
    """TF32 keeps 10 bits: of a learned dictionary on CIFAR-10, other coefficients are among the largest."""
    seen = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            if function is torch.nn.functional.conv2d:
                seen.append(torch.backends.cudnn.allow_tf32)
            return function(*args, **(kwargs or {}))

    encoder = FrontEncoder(atoms=30, top=5, dropout=0.0).fill(torch.randn(30, 3, 4, 4))
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=True):
        with Watch():
            encoder.code(images_of(1))
        assert torch.backends.cudnn.allow_tf32
    assert seen == [False]


def test_only_the_decoder_has_parameters():
    network = FrontEnd(atoms=30, top=5, channels=(4, 3))
    assert {name.split(".")[0] for name, _ in network.named_parameters()} == {"decoder"}
    assert "encoder.dictionary" in network.state_dict()


def test_every_classifier_in_settings_has_a_network_and_pretrained_ones_have_weights():
    assert [*NETWORKS] == [*LEARNERS]
    assert {*PRETRAINED} == {name for name, one in LEARNERS.items() if one.pretrained}


@pytest.mark.parametrize("name", LEARNERS)
def test_a_front_end_is_stored_with_any_of_them(tmp_path, name):
    if name == "efficientnet-lite0":
        pytest.importorskip("efficientnet_lite_pytorch")
    network = DefendedClassifier({"atoms": 8, "top": 3, "channels": (4, 3)}, 8, 3, name).eval()
    network.front.encoder.fill(torch.randn(8, 3, 4, 4))
    assert network.classifier.state_dict()[LEARNERS[name].head].shape[0] == 3
    save_network(tmp_path / "network.safetensors", network)
    again = load_network(tmp_path / "network.safetensors", DefendedClassifier)
    images, seeds = images_of(2, 32, 33), torch.arange(2)
    with torch.no_grad():
        logits = network(images, seeds)
        assert torch.equal(again(images, seeds), logits)
    assert logits.shape == (2, 3)
    assert again.settings == network.settings


@pytest.mark.parametrize("kind", [FrontEnd, DefendedClassifier])
def test_a_stored_network_comes_back_equal(tmp_path, kind):
    front = {"atoms": 30, "top": None, "quantise": False, "channels": (4, 3)}
    network = (FrontEnd(**front) if kind is FrontEnd else DefendedClassifier(front, depth=8, classes=3)).eval()
    (network if kind is FrontEnd else network.front).encoder.fill(torch.randn(30, 3, 4, 4))
    save_network(tmp_path / "network.safetensors", network)
    again = load_network(tmp_path / "network.safetensors", kind)
    images, seeds = images_of(2), torch.arange(2)
    assert torch.equal(again(images, seeds), network(images, seeds))
    assert again.settings == network.settings
