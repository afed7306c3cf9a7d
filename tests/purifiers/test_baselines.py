"""Each purifier of other papers does what its source says."""

import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import raypurify
from raypurify.config import CscSettings, DictionarySettings
from raypurify.csc import tikhonov_split
from raypurify.errors import ConfigError
from raypurify.images import to_float, to_pixels
from raypurify.purifiers import (
    JPEG,
    PURIFIERS,
    BitDepth,
    GlobalRSFP,
    LowPass,
    Median,
    NonLocalMeans,
    PixelDeflection,
    ResizePad,
    TotalVariation,
    Unchanged,
    learn_global_dictionary,
    load_global_rsfp,
)
from raypurify.purifiers.pixel_deflection import deflect
from raypurify.purifiers.transform import each_image
from raypurify.purifiers.tvm import minimise_total_variation


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noisy(images, deviation=12 / 255):
    return (images + deviation * torch.randn(images.shape, generator=generator())).clamp(0, 1)


def psnr(images, reference):
    return -10 * (images - reference).square().flatten(1).mean(1).log10()


@pytest.fixture(scope="module")
def scene():
    """Two 48×48 images with edges, slopes and a repeating texture."""
    y, x = np.mgrid[:48, :48] / 48
    plain = 0.25 + 0.4 * x[None] + 0.2 * (y > 0.5)[None] + 0.1 * np.sin(40 * x)[None] * (y < 0.3)[None]
    colour = np.array([1.0, 0.8, 0.6])[:, None, None]
    pixels = np.stack([plain * colour, (1 - plain) * colour[::-1]])
    return torch.from_numpy(pixels).float().clamp(0, 1)


def test_none_changes_nothing(photographs):
    out = Unchanged().purify(photographs)
    assert torch.equal(out.images, photographs)
    assert not out.relative_change.any()


def test_low_pass_and_high_part_make_the_image(photographs):
    soft = 0.25 + photographs / 2
    _, high = tikhonov_split(soft, lmbda=5.0, pad=16)
    torch.testing.assert_close(LowPass().purify(soft).images + high, soft)
    assert LowPass(tikhonov=50.0).purify(soft).relative_change[0] > LowPass().purify(soft).relative_change[0]


def test_jpeg_is_what_pillow_writes_and_reads(photographs):
    image = photographs[0, :, :31, :27]
    file = io.BytesIO()
    Image.fromarray(to_pixels(image.numpy())).save(file, "JPEG", quality=75, subsampling="4:2:0")
    expected = torch.from_numpy(to_float(np.array(Image.open(file))))
    assert torch.equal(JPEG().purify(image[None]).images[0], expected)
    coarse = JPEG(quality=10).purify(photographs).relative_change
    assert (coarse > JPEG().purify(photographs).relative_change).all()


def test_bit_depth_leaves_evenly_spaced_levels_each_the_nearest(photographs):
    out = BitDepth(bits=3).purify(photographs).images
    assert out.unique().tolist() == pytest.approx([level / 7 for level in range(8)])
    assert (out - photographs).abs().max() <= 1 / 14 + 1e-6
    assert torch.equal(BitDepth(bits=3).purify(out).images, out)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_median_is_scipys(size, photographs):
    ndimage = pytest.importorskip("scipy.ndimage")
    expected = ndimage.median_filter(photographs.numpy(), size=(1, 1, size, size), mode="reflect")
    assert torch.equal(Median(size).purify(photographs).images, torch.from_numpy(expected))


def test_median_removes_salt_and_pepper(scene):
    drawn = torch.rand(scene.shape, generator=generator())
    speckled = torch.where(drawn < 0.02, 0.0, torch.where(drawn > 0.98, 1.0, scene))
    for size in (2, 3):
        assert (psnr(Median(size).purify(speckled).images, scene) > psnr(speckled, scene) + 3).all()


def test_total_variation_of_all_pixels_is_scikit_images(photographs):
    restoration = pytest.importorskip("skimage.restoration")
    images = photographs[:2].double()
    settings = {"weight": 0.03, "eps": 1e-12, "max_num_iter": 1000, "channel_axis": -1}
    expected = each_image(images, lambda image: restoration.denoise_tv_chambolle(image, **settings))
    found = minimise_total_variation(images, torch.ones_like(images), 0.03, 500)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    out = TotalVariation(drop=0.0, lmbda=0.03, steps=500).purify(images).images
    torch.testing.assert_close(out, found.float(), atol=1e-3, rtol=0)


def test_total_variation_fills_in_from_the_kept_pixels_alone(photographs):
    images = photographs[:2]
    weight = (torch.rand(images.shape, generator=generator()) > 0.5).float()
    filled = minimise_total_variation(images, weight, 0.03, 200)
    unseen = torch.where(weight > 0, images, torch.rand(images.shape, generator=generator(1)))
    assert torch.equal(minimise_total_variation(unseen, weight, 0.03, 200), filled)
    dropped = weight == 0
    blank = torch.where(dropped, images.mean((2, 3), keepdim=True), images)
    assert (filled - images)[dropped].square().mean() < 0.3 * (blank - images)[dropped].square().mean()


def test_total_variation_of_a_channel_without_pixels_is_black():
    assert not minimise_total_variation(torch.rand(1, 3, 8, 8), torch.zeros(1, 3, 8, 8), 0.03, 5).any()


def test_total_variation_default_steps_nearly_minimise(photographs):
    images, weight = photographs[:2], (torch.rand(2, 3, 32, 32, generator=generator()) > 0.5).float()

    def objective(z):
        down = torch.nn.functional.pad(z.diff(dim=2), (0, 0, 0, 1))
        right = torch.nn.functional.pad(z.diff(dim=3), (0, 1))
        return (weight * (z - images) ** 2).sum() / 2 + 0.03 * (down**2 + right**2).sqrt().sum()

    least = objective(minimise_total_variation(images, weight, 0.03, 1000))
    assert least <= objective(minimise_total_variation(images, weight, 0.03, TotalVariation().steps)) <= 1.001 * least


def test_total_variation_and_non_local_means_remove_noise(scene):
    pytest.importorskip("skimage")
    before = psnr(noisy(scene), scene)
    for purifier in (TotalVariation(), TotalVariation(drop=0.0), NonLocalMeans(h=12 / 255)):
        assert (psnr(purifier.purify(noisy(scene)).images, scene) > before + 1).all(), purifier


def test_deflection_moves_about_k_pixels_to_neighbours_and_nothing_else():
    image = np.stack(np.mgrid[:40, :50], axis=2).astype(np.float32)
    deflected = deflect(image, 100, 6, np.random.default_rng(0))
    moved = (deflected != image).any(2)
    assert 85 <= moved.sum() <= 100
    distance = np.abs(deflected - image)[moved]
    assert distance.max() == 6
    assert 2 < distance.mean() < 4


def test_pixel_deflection_ends_with_the_librarys_wavelets(photographs):
    restoration = pytest.importorskip("skimage.restoration")
    pytest.importorskip("pywt")
    settings = {"sigma": 0.04, "method": "BayesShrink", "mode": "soft", "convert2ycbcr": True, "channel_axis": -1}
    shrunk = each_image(photographs, lambda image: restoration.denoise_wavelet(image, **settings)).clamp(0, 1)
    out = PixelDeflection().purify(photographs).images
    same = (out - shrunk).abs().amax(1) < 1e-3
    # Four pixels of 32² were deflected; a wavelet block around each differs.
    assert 0.5 < same.float().mean() < 1
    assert PixelDeflection(share=0.2).purify(photographs).relative_change.mean() > 0.04


def test_resize_pad_keeps_the_papers_share_of_the_canvas(photographs):
    out = ResizePad().purify(photographs * 0.5 + 0.5).images
    corners = set()
    for image in out:
        rows, columns = (image.amax(0) > 0).nonzero().unbind(1)
        top, left = int(rows.min()), int(columns.min())
        height, width = int(rows.max()) - top + 1, int(columns.max()) - left + 1
        assert height == width
        assert 29 <= height <= 31
        assert image[:, top : top + height, left : left + width].amin() > 0.4
        corners.add((top, left))
    assert len(corners) > 3


def test_global_rsfp_is_rsfp_where_both_use_one_dictionary(photographs):
    rsfp = raypurify.load("cifar10")
    expected = rsfp.purify(photographs)
    cluster = int(expected.cluster[0])
    own = expected.cluster == cluster
    out = GlobalRSFP(rsfp.dictionaries[cluster], rsfp.settings.csc).purify(photographs)
    torch.testing.assert_close(out.images[own], expected.images[own], atol=1e-5, rtol=0)


def test_a_global_dictionary_is_learned_stored_and_used(photographs, tmp_path):
    csc = CscSettings(lmbda=0.1)
    atoms = learn_global_dictionary(photographs, DictionarySettings(atoms=6, size=5), csc)
    assert atoms.shape == (6, 3, 5, 5)
    torch.testing.assert_close(atoms.flatten(1).norm(dim=1), torch.ones(6))
    assert torch.equal(atoms, learn_global_dictionary(photographs, DictionarySettings(atoms=6, size=5), csc))
    save_file({"atoms": atoms}, tmp_path / "global.safetensors")
    stored = PURIFIERS["rsfp_global"](dictionary=tmp_path / "global.safetensors", lmbda=0.1)
    assert stored.csc == csc
    out = stored.purify(photographs)
    low = LowPass().purify(photographs).images
    assert (psnr(out.images, photographs) > psnr(low, photographs)).all()
    torch.testing.assert_close(GlobalRSFP(atoms, csc).purify(photographs).images, out.images, atol=1e-5, rtol=0)


def test_a_global_dictionary_that_cannot_be_used_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"missing\.safetensors"):
        load_global_rsfp(tmp_path / "missing.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    with pytest.raises(ConfigError, match=r"broken\.safetensors"):
        load_global_rsfp(tmp_path / "broken.safetensors")
    for number, tensors in enumerate(({"other": torch.ones(1)}, {"atoms": torch.ones(3)})):
        save_file(tensors, tmp_path / f"{number}.safetensors")
        with pytest.raises(ConfigError, match=rf"{number}\.safetensors"):
            load_global_rsfp(tmp_path / f"{number}.safetensors")
    save_file({"atoms": torch.ones(2, 3, 4, 4)}, tmp_path / "good.safetensors")
    for wrong in ({"lmbda": -1.0}, {"unknown": 1.0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            load_global_rsfp(tmp_path / "good.safetensors", **wrong)


@pytest.mark.parametrize(
    ("name", "module"),
    [("nlm", "skimage.restoration"), ("pixel_deflection", "skimage.restoration"), ("pixel_deflection", "pywt")],
)
def test_a_missing_library_says_how_to_install_it(name, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=r"pip install 'raypurify\[evaluation\]'"):
        PURIFIERS[name]()
