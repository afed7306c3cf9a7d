"""Any number of channels, λ of images and atoms, and masks: every method at the optimum, and with sporco."""

import itertools

import numpy as np
import pytest
import torch
from test_admm import relative

from raypurify.csc import learn_dictionary, solve_cbpdn
from raypurify.csc.methods import METHODS
from raypurify.errors import DataError

ATOMS, SIZE, HEIGHT, WIDTH = 6, 4, 14, 11
LMBDA = {
    "one": 0.1,
    "image": torch.tensor([0.06, 0.2]),
    "atom": torch.linspace(0.05, 0.2, ATOMS)[None],
    "both": torch.tensor([[0.5], [1.0]]) * torch.linspace(0.05, 0.2, ATOMS),
}


def problem(channels, dtype=torch.float32, images=2):
    draw = torch.Generator().manual_seed(channels)
    atoms = torch.randn(ATOMS, channels, SIZE, SIZE, generator=draw, dtype=torch.float64)
    signal = 0.3 * torch.randn(images, channels, HEIGHT, WIDTH, generator=draw, dtype=torch.float64)
    return (atoms / torch.linalg.vector_norm(atoms, dim=(1, 2, 3), keepdim=True)).to(dtype), signal.to(dtype)


def masked(kind, channels):
    """No mask, holes that all images and channels share, or a weight of each number."""
    draw = torch.Generator().manual_seed(9)
    holes = torch.rand(1, 1, HEIGHT, WIDTH, generator=draw) > 0.4
    return {"none": None, "holes": holes, "weights": torch.rand(2, channels, HEIGHT, WIDTH, generator=draw)}[kind]


def measured(atoms, signal, codes, lmbda, mask):
    """Objective, violation in units of λ, and duality gap of each image in float64, by sums over pixels alone."""
    atoms, signal, codes = (np.asarray(each, np.float64) for each in (atoms, signal, codes))
    weights = np.broadcast_to(1.0 if mask is None else np.asarray(mask, np.float64), signal.shape)
    lmbda = np.asarray(lmbda, np.float64)
    lmbda = np.broadcast_to(lmbda if lmbda.ndim == 2 else lmbda.reshape(-1, 1), (len(signal), ATOMS))[..., None, None]
    image, beta, energy = np.zeros_like(signal), np.zeros_like(codes), np.zeros_like(codes)
    taps = list(itertools.product(range(SIZE), range(SIZE)))
    for i, j in taps:
        moved = np.roll(codes, (i, j), (2, 3))
        image += np.einsum("mc,nmhw->nchw", atoms[:, :, i, j], moved)
    rest = weights * (signal - image)
    for i, j in taps:
        seen, square = (np.roll(each, (-i, -j), (2, 3)) for each in (weights * rest, weights**2))
        beta += np.einsum("mc,nchw->nmhw", atoms[:, :, i, j], seen)
        energy += np.einsum("mc,nchw->nmhw", atoms[:, :, i, j] ** 2, square)
    held = beta + energy * codes
    step = np.sign(held) * np.maximum(np.abs(held) - lmbda, 0) - energy * codes
    energies = (rest**2).sum((1, 2, 3)) / 2
    objective = energies + (lmbda * np.abs(codes)).sum((1, 2, 3))
    scale = np.minimum(1, 1 / (np.abs(beta) / lmbda).max((1, 2, 3)))
    gap = objective + scale**2 * energies - scale * (rest * weights * signal).sum((1, 2, 3))
    return objective, (np.abs(step) / lmbda).max((1, 2, 3)), gap


@pytest.mark.parametrize("kind", ["none", "holes", "weights"])
@pytest.mark.parametrize("form", LMBDA)
@pytest.mark.parametrize("channels", [1, 3, 8])
def test_every_method_is_at_the_optimum_and_says_how_near(channels, form, kind):
    atoms, signal = problem(channels)
    lmbda, mask = LMBDA[form], masked(kind, channels)
    found = {m: solve_cbpdn(atoms, signal, lmbda, rel_tol=1e-3, method=m, mask=mask) for m in METHODS}
    for res in found.values():
        objective, violation, gap = measured(atoms, signal, res.codes, lmbda, mask)
        assert res.converged.all()
        np.testing.assert_allclose(res.objective, objective, rtol=1e-5)
        np.testing.assert_allclose(res.residual, violation, atol=1e-4)
        np.testing.assert_allclose(res.gap, gap, atol=2e-5 * objective.max())
        assert (gap < 0.06 * objective).all()
        assert res.codes.any()
    assert (found["cd"].residual <= 1.01e-2).all()
    torch.testing.assert_close(found["cd"].objective, found["admm"].objective, rtol=1e-3, atol=0)


def by_sporco(atoms, signal, lmbda, iterations, mask=None, weights=None, **options):
    """Codes (M, H, W) of one image."""
    from sporco.admm import cbpdn

    options |= {"MaxMainIter": iterations, "RelStopTol": 0.0, "AutoRho": {"Enabled": False}}
    if weights is not None:
        options["L1Weight"] = weights.numpy().reshape(1, 1, 1, 1, -1)
    grey = atoms.shape[1] == 1
    filters, image = atoms.permute(2, 3, 1, 0).numpy(), signal.permute(1, 2, 0).numpy()
    filters, image = (filters[:, :, 0], image[:, :, 0]) if grey else (filters, image)
    if mask is None:
        solver = cbpdn.ConvBPDN(filters, image, lmbda, cbpdn.ConvBPDN.Options(options), dimK=0)
    else:
        window = mask.permute(1, 2, 0).numpy()
        window = window[:, :, 0] if grey else window
        solver = cbpdn.ConvBPDNMaskDcpl(
            filters, image, lmbda, window, cbpdn.ConvBPDNMaskDcpl.Options({"rho": 1.0} | options), dimK=0
        )
    return solver.solve().squeeze(axis=(2, 3)).transpose(2, 0, 1)


@pytest.mark.parametrize("iterations", [1, 40])
@pytest.mark.parametrize("channels", [1, 3, 8])
@pytest.mark.parametrize("kind", ["plain", "weights", "mask", "both"])
def test_iterates_are_sporcos(kind, channels, iterations):
    atoms, signal = problem(channels, torch.float64, images=1)
    weights = torch.linspace(0.5, 2, ATOMS, dtype=torch.float64) if kind in ("weights", "both") else None
    mask = masked("weights", channels)[:1].double() if kind in ("mask", "both") else None
    lmbda = 0.1 if weights is None else 0.1 * weights[None]
    settings = {"rel_tol": 0.0, "max_iter": iterations, "rho": 1.0 if mask is not None else 6.0, "method": "admm"}
    ours = solve_cbpdn(atoms, signal, lmbda, mask=mask, **settings).codes[0].numpy()
    theirs = by_sporco(
        atoms, signal[0], 0.1, iterations, None if mask is None else mask[0], weights, rho=settings["rho"]
    )
    assert np.any(theirs)
    assert relative(ours, theirs) < 1e-9


def test_lambda_of_an_image_is_that_of_its_own_solve():
    atoms, signal = problem(3)
    for method in METHODS:
        together = solve_cbpdn(atoms, signal, LMBDA["image"], method=method)
        for n in range(2):
            alone = solve_cbpdn(atoms, signal[n : n + 1], float(LMBDA["image"][n]), method=method)
            torch.testing.assert_close(together.codes[n], alone.codes[0], atol=1e-6, rtol=1e-5)
            assert together.iterations[n] == alone.iterations[0]


@pytest.mark.parametrize("method", METHODS)
def test_hidden_pixels_count_for_nothing_and_are_filled_in(method):
    atoms, _ = problem(3)
    draw = torch.Generator().manual_seed(3)
    codes = torch.zeros(2, ATOMS, 40, 40)
    codes[torch.rand(codes.shape, generator=draw) < 0.002] = 1.0
    spectra = torch.fft.rfft2(atoms, s=(40, 40))
    image = torch.fft.irfft2(torch.einsum("mchw,nmhw->nchw", spectra, torch.fft.rfft2(codes)), s=(40, 40))
    mask = torch.rand(2, 1, 40, 40, generator=draw) > 0.3
    res = solve_cbpdn(atoms, torch.where(mask, image, 0.0), 0.01, method=method, rel_tol=1e-3, mask=mask)
    other = solve_cbpdn(atoms, torch.where(mask, image, 77.0), 0.01, method=method, rel_tol=1e-3, mask=mask)
    assert torch.equal(res.codes, other.codes)
    hidden = ~mask.expand_as(image)
    assert (res.reconstruction - image)[hidden].norm() < 0.1 * image[hidden].norm()
    blind = solve_cbpdn(atoms, torch.where(mask, image, 0.0), 0.01, rel_tol=1e-3).reconstruction
    assert (blind - image)[hidden].norm() > 0.5 * image[hidden].norm()


@pytest.mark.parametrize("method", METHODS)
def test_padding_tiles_starts_and_sparse_codes_go_with_masks_and_weights(method):
    draw = torch.Generator().manual_seed(5)
    atoms = problem(1)[0][:, :, :2, :2]
    signal, mask = 0.3 * torch.randn(1, 1, 58, 70, generator=draw), torch.rand(1, 1, 58, 70, generator=draw)
    settings = {"lmbda": 2 * LMBDA["atom"], "method": method, "mask": mask, "rel_tol": 1e-2}
    whole = solve_cbpdn(atoms, signal, **settings)
    sparse = solve_cbpdn(atoms, signal, **settings, sparse=True)
    assert torch.equal(sparse.codes.to_dense(), whole.codes)
    torch.testing.assert_close(sparse.objective, whole.objective)
    numbers = METHODS[method].numbers_per_pixel(ATOMS, 1)
    tiled = solve_cbpdn(atoms, signal, **settings, max_bytes=4 * numbers * (18 + 16 * 2) ** 2)
    assert not torch.equal(tiled.codes, whole.codes)
    torch.testing.assert_close(tiled.objective, whole.objective, rtol=1e-2, atol=0)
    again = solve_cbpdn(atoms, signal, **settings | {"method": "cd"}, initial=tiled.codes, max_iter=0)
    for name in ("objective", "residual", "gap"):
        torch.testing.assert_close(getattr(tiled, name), getattr(again, name), atol=2e-4, rtol=2e-4)
    warm = solve_cbpdn(atoms, signal, **settings, initial=sparse.codes)
    assert warm.iterations.sum() < whole.iterations.sum() / 2
    padded = solve_cbpdn(atoms, signal, **settings, pad=4)
    assert padded.converged.all()
    assert padded.reconstruction.shape == signal.shape


@pytest.mark.parametrize("kind", ["none", "holes"])
def test_implicit_gradient_is_the_limit_of_the_unrolled_one(kind):
    atoms, signal = problem(2, torch.float64)
    atoms, lmbda, mask = atoms[:2], torch.tensor([[0.4, 0.6]]), masked(kind, 2)
    signal.requires_grad_()
    found = []
    for how in ({"differentiable": "implicit", "rel_tol": 1e-9}, {"differentiable": "unrolled", "max_iter": 200}):
        res = solve_cbpdn(atoms, signal, lmbda, method="admm", rho=4.0, mask=mask, **{"rel_tol": 0.0} | how)
        value = res.reconstruction.sin().sum() + res.codes.square().sum()
        found.append(torch.autograd.grad(value, signal)[0])
    assert found[0].norm() > 1
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3)
    if mask is not None:
        assert not found[0][~mask.expand_as(signal)].any()


def test_an_atom_without_a_penalty_is_admms():
    atoms, signal = problem(3)
    lmbda = LMBDA["atom"].clone()
    lmbda[0, 0] = 0
    auto = solve_cbpdn(atoms, signal, lmbda, rel_tol=1e-4)
    assert auto.converged.all()
    assert (auto.codes[:, 0] != 0).float().mean() > 0.5
    assert (auto.residual < 1e-2).all()
    torch.testing.assert_close(auto.gap, auto.objective)
    with pytest.raises(DataError, match='method="admm"'):
        solve_cbpdn(atoms, signal, lmbda, method="cd")


def test_auto_descends_with_a_mask_and_weights():
    atoms, signal = problem(3)
    auto, descent = (
        solve_cbpdn(atoms, signal, LMBDA["both"], method=m, mask=masked("holes", 3)) for m in ("auto", "cd")
    )
    assert torch.equal(auto.codes, descent.codes)


@pytest.mark.parametrize("engine", ["torch", "sporco"])
@pytest.mark.parametrize("channels", [1, 5])
def test_dictionaries_of_any_number_of_channels_are_learned(channels, engine):
    images = problem(channels, images=4)[1]
    atoms = learn_dictionary(images, atoms=4, size=3, lmbda=0.05, engine=engine)
    assert atoms.shape == (4, channels, 3, 3)
    torch.testing.assert_close(torch.linalg.vector_norm(atoms, dim=(1, 2, 3)), torch.ones(4))


GREY, IMAGES = problem(1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lmbda": torch.full((ATOMS,), 0.1)}, r"lmbda.*weights\[None\]"),
        ({"lmbda": torch.full((2, 5), 0.1)}, r"lmbda: expected.*\(2, 6\)"),
        ({"lmbda": torch.tensor([0.1, -1.0])}, "lmbda=-1"),
        ({"lmbda": torch.tensor([0.1, torch.inf])}, "lmbda=inf"),
        ({"mask": torch.ones(2, 1, 3, 3)}, "mask: expected"),
        ({"mask": torch.ones(HEIGHT, WIDTH)}, "mask: expected"),
        ({"mask": torch.ones(2, 3, HEIGHT, WIDTH)}, "mask: has 3 channels"),
        ({"mask": torch.full((1, 1, HEIGHT, WIDTH), 255)}, r"mask: must be in \[0, 1\]"),
        ({"mask": torch.full((1, 1, HEIGHT, WIDTH), torch.nan)}, r"mask: must be in \[0, 1\]"),
        ({"mask": torch.ones(1, 1, HEIGHT, WIDTH), "auto_rho": True}, "auto_rho=True: not with a mask"),
    ],
)
def test_refuses(settings, message):
    with pytest.raises(DataError, match=message):
        solve_cbpdn(GREY, IMAGES, **settings)


def test_atoms_of_other_channels_are_refused_with_a_way_out():
    signal = problem(3)[1]
    with pytest.raises(DataError, match=r"atoms have 1 channels, but signal has 3.*flatten\(0, 1\)"):
        solve_cbpdn(GREY, signal)
    assert solve_cbpdn(GREY, signal.flatten(0, 1)[:, None]).codes.shape == (6, ATOMS, HEIGHT, WIDTH)
