"""Patches: taken out and averaged back, normalised by equation 17 of RegionSparse, drawn, learned from."""

import pytest
import torch

from raypurify.errors import DataError
from raypurify.patches import coding, overlap
from raypurify.patches.coding import rewrite_patches
from raypurify.patches.dictionary import cosine_atoms, draw_patches, learn_atoms
from raypurify.patches.overlap import Overlap, positions
from raypurify.patches.zscore import unchanged, zscore_of


@pytest.fixture
def image():
    return torch.rand(3, 13, 18, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_every_pixel_is_in_a_patch_and_their_average_is_the_image(image, stride, monkeypatch):
    monkeypatch.setattr(overlap, "BAND", 10)
    patches = Overlap(13, 18, size=4, stride=stride)
    bands = list(patches.bands())
    assert len(bands) > 1
    taken = [patches.band(image, rows) for rows in bands]
    assert sum(map(len, taken)) == patches.count
    total = torch.zeros_like(image)
    for band, rows in zip(taken, bands):
        patches.add(total, band, rows)
    torch.testing.assert_close(total / patches.times, image)
    assert patches.times.min() >= 1


def test_a_patch_is_what_stands_at_its_place(image):
    patches = Overlap(13, 18, size=5, stride=4)
    (rows,) = patches.bands()
    band = patches.band(image, rows).reshape(len(rows), -1, 3, 5, 5)
    for i, top in enumerate(rows.tolist()):
        for j, left in enumerate(positions(18, 5, 4).tolist()):
            assert torch.equal(band[i, j], image[:, top : top + 5, left : left + 5])


def test_equation_17_leaves_mean_0_and_variance_1_of_each_dimension_and_can_be_undone(image):
    patches = Overlap(13, 18, size=3)
    (rows,) = patches.bands()
    taken = patches.band(image, rows)
    score = zscore_of([taken[:50], taken[50:]])
    normal = score.normal(taken)
    torch.testing.assert_close(normal.mean(0), torch.zeros(27).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(normal.var(0, correction=0), torch.ones(27).double())
    torch.testing.assert_close(score.back(normal), taken)
    same = unchanged(taken)
    assert torch.equal(same.normal(taken), taken)


def test_what_does_not_vary_becomes_zero_and_comes_back():
    flat = torch.full((40, 12), 0.7)
    score = zscore_of([flat])
    torch.testing.assert_close(score.normal(flat), torch.zeros(40, 12).double(), atol=1e-7, rtol=0)
    torch.testing.assert_close(score.back(score.normal(flat)), flat.double())


def test_a_complete_basis_rebuilds_the_image_and_few_atoms_the_nearest(image):
    basis = cosine_atoms(4)
    whole = rewrite_patches([image], basis, 48, stride=2)
    torch.testing.assert_close(whole.images[0], image, atol=1e-6, rtol=0)
    assert whole.residual[0] < 1e-6
    residuals = [float(rewrite_patches([image], basis, k).residual[0]) for k in (1, 4, 16)]
    assert residuals == sorted(residuals, reverse=True)
    assert residuals[-1] > 0.01


def test_images_of_many_sizes_go_together_as_they_go_alone(image, monkeypatch):
    crops = [image, image[:, :4, :4], image[:, 2:9, 5:], torch.full((3, 6, 6), 0.5)]
    basis = cosine_atoms(4)
    together = rewrite_patches(crops, basis, 5)
    monkeypatch.setattr(coding, "BAND", 30)
    monkeypatch.setattr(overlap, "BAND", 30)
    for k, crop in enumerate(crops):
        alone = rewrite_patches([crop], basis, 5)
        torch.testing.assert_close(alone.images[0], together.images[k], atol=1e-10, rtol=0)
        torch.testing.assert_close(alone.residual[0], together.residual[k], atol=1e-10, rtol=0)
        assert alone.most[0] == together.most[k]
    assert together.most.tolist() == [5, 0, 5, 0]


def test_a_band_of_a_wide_image_has_no_more_patches_than_one_of_a_tall_image(image, monkeypatch):
    wide, basis = image.repeat(1, 1, 3), cosine_atoms(4)
    expected = rewrite_patches([wide], basis, 5, stride=2)
    monkeypatch.setattr(overlap, "BAND", 22)
    patches = Overlap(13, 54, size=4, stride=2)
    bands = [patches.band(wide, rows) for rows in patches.bands()]
    assert max(map(len, bands)) <= 22
    assert sum(map(len, bands)) == patches.count == 6 * 26
    done = rewrite_patches([wide], basis, 5, stride=2)
    torch.testing.assert_close(done.images[0], expected.images[0], atol=1e-10, rtol=0)
    torch.testing.assert_close(done.residual, expected.residual)


def test_the_gradient_is_that_of_a_difference(image):
    small = image[:, :6, :7].clone().requires_grad_()
    basis = cosine_atoms(3)
    assert torch.autograd.gradcheck(lambda x: rewrite_patches([x], basis, 4).images[0], small)
    (gradient,) = torch.autograd.grad(
        rewrite_patches([torch.zeros_like(small) * small], basis, 4).residual.sum(), small
    )
    assert gradient.isfinite().all()


def test_drawn_patches_are_of_the_image_none_twice_and_of_the_seed_alone(image):
    drawn = draw_patches(image, 4, 30, (0, 5), normalise=False)
    every = Overlap(13, 18, size=4)
    (rows,) = every.bands()
    apart = torch.cdist(drawn.double(), every.band(image, rows))
    assert (apart.amin(1) < 1e-6).all()
    assert len(apart.argmin(1).unique()) == 30
    assert torch.equal(drawn, draw_patches(image, 4, 30, (0, 5), normalise=False))
    assert not torch.equal(drawn, draw_patches(image, 4, 30, (0, 6), normalise=False))
    assert len(draw_patches(image, 12, 30, (0,))) == 14
    with pytest.raises(DataError, match=r"13×18 has no patch of 14²: lower patches\.size"):
        draw_patches(image, 14, 30, (0,))


def test_atoms_that_patches_were_made_of_are_learned():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(8, 20, generator=generator)
    truth /= truth.norm(dim=1, keepdim=True)
    weights = torch.randn(3000, 8, generator=generator) * (torch.rand(3000, 8, generator=generator) < 0.2)
    heard: list[int] = []
    atoms = learn_atoms(5 * weights @ truth, 8, alpha=0.3, passes=2, seed=0, on_patches=heard.append)
    # Patches without any atom say nothing and are passed over.
    assert sum(heard) == 2 * int((weights != 0).any(1).sum())
    torch.testing.assert_close(atoms.norm(dim=1), torch.ones(8))
    assert (atoms @ truth.T).abs().amax(0).min() > 0.9
    assert torch.equal(atoms, learn_atoms(5 * weights @ truth, 8, 0.3, 2, 0, lambda count: None))


def test_too_few_patches_are_refused():
    with pytest.raises(DataError, match="0 patches that vary are too few for 4 atoms: give more images"):
        learn_atoms(torch.zeros(30, 12), 4, 1.0, 1, 0, lambda count: None)
