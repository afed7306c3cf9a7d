"""Image quilting: the cuts against all that there are, what comes out of which bank, and the script that makes one."""

import hashlib
import itertools
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from raypurify.errors import ConfigError
from raypurify.purifiers import CropEnsemble, Quilting, TotalVariation, crop_ensemble, patch_bank, quilting
from raypurify.purifiers.learned import FOLDER
from raypurify.purifiers.patch_bank import patches_of, read_bank
from raypurify.purifiers.seams import joined, least_seam, starts_of


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def bank(tmp_path):
    """Writes a bank of these images, and gives its path."""

    def write(images):
        path = tmp_path / "bank.safetensors"
        save_file({"images": images}, path)
        return path

    return write


@pytest.fixture
def clean():
    """Six images of 11×14 of noise, uint8."""
    return torch.randint(256, (6, 3, 11, 14), dtype=torch.uint8, generator=generator())


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_a_seam_costs_the_least_of_all_there_are(width):
    costs = torch.rand(7, 5, width, generator=generator())
    ways = [way for way in itertools.product(range(width), repeat=5) if np.abs(np.diff(way)).max() <= 1]
    every = torch.stack([costs[:, range(5), way].sum(1) for way in ways])
    seam = least_seam(costs)
    assert (seam.diff(dim=1).abs() <= 1).all()
    torch.testing.assert_close(costs.gather(2, seam[..., None]).sum((1, 2)), every.amin(0))


def test_pieces_give_way_to_each_other_where_they_agree():
    """Two pieces that differ everywhere but along a slanted line: what is left of it is the first's, the rest the
    other's, and no piece has a say where it is alone."""
    first, other = torch.zeros(1, 6, 8), torch.ones(1, 6, 8)
    line = torch.tensor([0, 1, 2, 2, 3, 3])
    other[0, range(6), line] = first[0, range(6), 4 + line] = 0.5
    out = joined(torch.stack([first, other]), torch.tensor([0, 4]), 4)[0]
    expected = torch.ones(6, 12)
    for row, place in enumerate(line.tolist()):
        expected[row, : 4 + place] = 0
        expected[row, 4 + place] = 0.5
    assert torch.equal(out, expected)


@pytest.mark.parametrize(("side", "patch", "overlap"), [(5, 5, 2), (6, 5, 2), (13, 5, 2), (20, 8, 4), (9, 2, 1)])
def test_patches_cover_a_side_and_overlap_as_asked_for(side, patch, overlap):
    starts = starts_of(side, patch, overlap)
    assert starts[0] == 0
    assert starts[-1] + patch == side
    steps = starts.diff()
    assert (steps[:-1] == patch - overlap).all()
    assert ((steps > 0) & (steps <= patch - overlap)).all()


@pytest.mark.parametrize(("patch", "overlap"), [(5, 2), (4, 1), (6, 3)])
def test_an_image_of_the_bank_comes_back_as_it_is(patch, overlap, bank, clean):
    images = clean.float() / 255
    purifier = Quilting(bank=bank(clean), patch=patch, overlap=overlap)
    assert torch.equal(purifier.purify(images).images, images)
    near = (images + 0.01 * torch.randn(images.shape, generator=generator())).clamp(0, 1)
    assert torch.equal(purifier.purify(near).images, images)


def test_nothing_but_pixels_of_the_bank_comes_out(bank, clean):
    out = Quilting(bank=bank(clean[:2])).purify(torch.rand(2, 3, 9, 17, generator=generator())).images
    known = {tuple(pixel) for pixel in clean[:2].permute(0, 2, 3, 1).reshape(-1, 3).tolist()}
    assert {tuple(pixel) for pixel in (out * 255).round().int().permute(0, 2, 3, 1).reshape(-1, 3).tolist()} <= known


def test_one_of_the_nearest_is_drawn(bank, clean):
    path = bank(clean)
    rows = patches_of(clean, 5, 10**6).float() / 255
    image = torch.rand(1, 3, 5, 5, generator=generator())
    nearest = (rows - image.flatten(1)).square().sum(1).argsort()
    drawn = [Quilting(bank=path, neighbours=3, seed=seed).purify(image).images for seed in range(20)]
    found = {int((rows - one.flatten(1)).abs().sum(1).argmin()) for one in drawn}
    assert found == set(nearest[:3].tolist())
    assert torch.equal(Quilting(bank=path).purify(image).images.flatten(1), rows[nearest[:1]])


def test_patches_are_a_fixed_choice_of_all(clean):
    every, some = patches_of(clean, 5, 10**6), patches_of(clean, 5, 50)
    assert every.shape == (6 * 7 * 10, 75)
    assert torch.equal(every[-1].view(3, 5, 5), clean[-1, :, -5:, -5:])
    assert torch.equal(some, patches_of(clean, 5, 50))
    rows = {row.numpy().tobytes() for row in some}
    assert len(rows) == 50
    assert rows <= {row.numpy().tobytes() for row in every}


def test_banks_that_do_not_serve_are_named(bank, clean, tmp_path):
    with pytest.raises(ConfigError, match=r"patch=12: the images of the bank have 11×14 pixels.*lower patch"):
        Quilting(bank=bank(clean), patch=12, overlap=2)
    with pytest.raises(ConfigError, match=r"bank=.*torch.float32 of shape \(6, 3, 11, 14\); it must be uint8"):
        Quilting(bank=bank(clean.float()))
    save_file({"atoms": clean}, tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match=r"bank=.*other\.safetensors.*no images in it"):
        Quilting(bank=tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match=r"patches=.*too much to keep in memory: lower patches"):
        patches_of(torch.zeros(1, 3, 1, 1, dtype=torch.uint8).expand(400, 3, 400, 400), 5, 10**8)


def test_a_bank_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    """A file of 2 TiB, all of it a hole; and one that has grown since its size was asked for."""
    path = tmp_path / "huge.safetensors"
    with path.open("wb") as file:
        file.truncate(1 << 41)
    with pytest.raises(
        ConfigError, match=r"bank=.*huge\.safetensors.* 2,199,023,255,552 bytes.* 536,870,912 are the most"
    ):
        Quilting(bank=path)
    monkeypatch.setattr("raypurify.storage.Place.stamp", (10, 0))
    monkeypatch.setattr(patch_bank, "MAX_BYTES", 1 << 10)
    with pytest.raises(ConfigError, match=r"bank=.*huge\.safetensors.*no images in it"):
        Quilting(bank=path)


def test_the_numbers_of_all_patches_are_not_written_down():
    """Of 10¹² places, which are a few bytes here, seven."""
    images = torch.zeros(1, 3, 1, 1, dtype=torch.uint8).expand(1000, 3, 40_000, 40_000)
    assert patches_of(images, 5, 7).shape == (7, 75)


@pytest.mark.parametrize("settings", [{}, {"neighbours": 5, "seed": 3}, {"patch": 7, "overlap": 3}])
@pytest.mark.parametrize("size", [(33, 47), (9, 64)])
def test_patches_that_are_looked_up_in_pieces_give_the_same_bytes(settings, size, monkeypatch):
    images = torch.rand(2, 3, *size, generator=generator())
    purifier = Quilting(patches=300, **settings)
    together = purifier.purify(images).images
    looked_up = []
    search = quilting.nearest_rows
    monkeypatch.setattr(quilting, "nearest_rows", lambda q, *more: looked_up.append(len(q)) or search(q, *more))
    monkeypatch.setattr(quilting, "QUERIES", 32)
    monkeypatch.setattr("raypurify.clusters.neighbours.QUERIES", 32)
    monkeypatch.setattr(quilting, "PIECE", 1)
    assert torch.equal(purifier.purify(images).images, together)
    assert max(looked_up) <= 32


def test_the_shipped_bank_is_small_and_the_one_that_the_code_names():
    data = (FOLDER / "patches.safetensors").read_bytes()
    assert len(data) < 800_000
    assert hashlib.sha256(data).hexdigest() == Quilting.shipped == Quilting().digest
    assert read_bank(FOLDER / "patches.safetensors")[0].shape == (250, 3, 32, 32)


def test_photographs_stay_recognisable(photographs):
    out = Quilting().purify(photographs).images
    ratio = -10 * (out - photographs).square().flatten(1).mean(1).log10()
    assert ratio.mean() > 20


def test_the_script_makes_a_bank(benchmark, request, tmp_path, monkeypatch, photographs):
    script = benchmark("patch_bank")
    labels = np.array([3, 0, 0, 0, 3, 1, 0, 3])
    assert sorted(labels[script.balanced(labels, 5)]) in ([0, 0, 1, 3, 3], [0, 0, 0, 1, 3])
    assert len(np.unique(script.balanced(labels, 8))) == 8
    out = tmp_path / "own.safetensors"
    given = ["--images", request.config.rootpath / "examples" / "cifar10", "--count", 3, "--size", 16, "--out", out]
    monkeypatch.setattr(sys, "argv", ["patch_bank.py", *map(str, given)])
    script.main()
    assert read_bank(out)[0].shape == (3, 3, 16, 16)
    assert Quilting(bank=out).purify(photographs[:1]).images.shape == photographs[:1].shape


def test_crops_are_purified_at_the_images_size_and_put_back(bank, clean):
    image = torch.rand(1, 3, 16, 20, generator=generator())
    settings = {"bank": bank(clean), "steps": 20}
    out = CropEnsemble(crop=0.5, crops=1, **settings).purify(image).images
    whole = (TotalVariation(steps=20).purify(image).images + Quilting(bank=settings["bank"]).purify(image).images) / 2
    changed = (out - whole).abs().amax((0, 1)) > 1e-6
    rows, columns = changed.nonzero().unbind(1)
    height, width = int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1
    assert (height, width) == (8, 10)
    top, left = int(rows.min()), int(columns.min())
    part = image[:, :, top : top + 8, left : left + 10]
    large = torch.nn.functional.interpolate(part, (16, 20), mode="bilinear")
    large = (TotalVariation(steps=20).purify(large).images + Quilting(bank=settings["bank"]).purify(large).images) / 2
    small = torch.nn.functional.interpolate(large, (8, 10), mode="bilinear", antialias=True)
    mean = (small + whole[:, :, top : top + 8, left : left + 10]) / 2
    torch.testing.assert_close(out[:, :, top : top + 8, left : left + 10], mean, atol=1e-5, rtol=0)


def test_crops_that_are_purified_a_few_at_a_time_give_the_same_bytes(bank, clean, monkeypatch):
    purifier = CropEnsemble(crops=7, steps=5, bank=bank(clean))
    images = torch.rand(2, 3, 19, 23, generator=generator())
    together, seen = purifier.purify(images).images, []
    whole = TotalVariation.transform
    monkeypatch.setattr(TotalVariation, "transform", lambda self, some: seen.append(len(some)) or whole(self, some))
    monkeypatch.setattr(crop_ensemble, "PIXELS", 2 * 19 * 23)
    assert torch.equal(purifier.purify(images).images, together)
    assert seen == [1, 2, 2, 2, 1] * 2


def test_more_crops_are_seen_by_more_pixels(bank, clean):
    image = torch.rand(1, 3, 24, 24, generator=generator())
    settings = {"bank": bank(clean), "steps": 5}
    whole = (TotalVariation(steps=5).purify(image).images + Quilting(bank=settings["bank"]).purify(image).images) / 2
    shares = [
        ((CropEnsemble(crops=crops, **settings).purify(image).images - whole).abs().amax((0, 1)) > 1e-6).float().mean()
        for crops in (1, 4, 12)
    ]
    assert shares[0].item() == pytest.approx((9 / 24) ** 2, abs=0.02)
    assert shares[0] < shares[1] < shares[2] < 1
