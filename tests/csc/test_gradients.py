"""Gradients of sparse codes with respect to the image: unrolled and implicit, against finite differences."""

from itertools import pairwise

import pytest
import torch
from sparse_problems import random_dictionary, random_signal

from raypurify.csc import solve_cbpdn
from raypurify.csc._support import solve_on_support
from raypurify.csc.admm import AdmmSettings, solve_admm
from raypurify.csc.convolution import reconstruct
from raypurify.csc.implicit import _least_squares, differentiate_implicitly

DOUBLE = torch.float64
DICTIONARY, SIGNAL = random_dictionary(5, 3, dtype=DOUBLE), random_signal(3, 8, 9, dtype=DOUBLE)
ATOMS, BANK = DICTIONARY[None], random_dictionary(5, 3, sets=3, dtype=DOUBLE)


def noise(shape, seed, dtype=DOUBLE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE).to(dtype)


def unrolled(signal, atoms=ATOMS, lmbda=0.3, rel_tol=0.0, max_iter=None, rho=6.0, relax=1.8, **options):
    options = {"auto_rho": False, "nonneg": False} | options
    return solve_admm(atoms, signal, AdmmSettings(lmbda, rel_tol, max_iter, rho, relax, **options))


def implicit(signal, atoms=ATOMS, lmbda=0.3, method="admm"):
    rel_tol = 1e-11 if method == "admm" else 1e-12
    index = torch.arange(len(signal)) % len(atoms)
    codes = solve_cbpdn(atoms, signal.detach(), lmbda, rel_tol=rel_tol, method=method, index=index).codes
    return differentiate_implicitly(codes, atoms, signal)


def weighted(codes, atoms=ATOMS):
    """A number that depends on the codes directly and on their reconstruction."""
    images = reconstruct(atoms, codes).sin()
    return (noise(codes.shape, 5) * codes).sum() + (noise(images.shape, 6) * images).sum()


def gradient(coded, signal, atoms=ATOMS):
    signal = signal.clone().requires_grad_()
    return torch.autograd.grad(weighted(coded(signal), atoms), signal)[0]


def assert_finite_differences(coded, signal, step, rtol, atoms=ATOMS):
    found = gradient(coded, signal, atoms)
    with torch.no_grad():
        support = coded(signal) != 0
        for seed in range(3):
            way = noise(signal.shape, 10 + seed)
            ahead, behind = coded(signal + step * way), coded(signal - step * way)
            assert torch.equal(ahead != 0, support)
            assert torch.equal(behind != 0, support)
            slope = (weighted(ahead, atoms) - weighted(behind, atoms)) / (2 * step)
            torch.testing.assert_close((found * way).sum(), slope, rtol=rtol, atol=0)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"relax": 1.0},
        {"rho": 1.5, "max_iter": 40},
        {"nonneg": True},
        {"lmbda": 0.0, "rho": 1.0},
        {"atoms": BANK},
    ],
)
def test_unrolled_gradient_is_that_of_the_iterate(options):
    options = {"atoms": ATOMS, "max_iter": 12} | options
    assert_finite_differences(lambda s: unrolled(s, **options)[0], SIGNAL, 1e-6, 1e-6, options["atoms"])


@pytest.mark.parametrize("atoms", [ATOMS, BANK])
def test_unrolled_gradient_of_images_that_leave_at_different_iterations(atoms):
    signal = SIGNAL * torch.tensor([1.0, 0.01, 1.5], dtype=DOUBLE)[:, None, None, None]
    _, iterations, converged = unrolled(signal, atoms, rel_tol=1e-2)
    assert iterations[1] == 0
    assert len(set(iterations.tolist())) == 3
    assert converged.all()
    assert_finite_differences(lambda s: unrolled(s, atoms, rel_tol=1e-2)[0], signal, 1e-7, 1e-5, atoms)


@pytest.mark.parametrize("method", ["admm", "cd"])
@pytest.mark.parametrize("atoms", [ATOMS, BANK])
def test_implicit_gradient_is_that_of_the_solution(method, atoms):
    assert_finite_differences(lambda s: implicit(s, atoms, method=method), SIGNAL, 1e-6, 1e-5, atoms)


@pytest.mark.parametrize("options", [{}, {"nonneg": True}, {"auto_rho": True}, {"lmbda": 0.0, "rho": 0.1}])
def test_unrolled_gradient_approaches_the_implicit_one(options):
    codes, _, _ = unrolled(SIGNAL, max_iter=1500, **options)
    limit = gradient(lambda s: differentiate_implicitly(codes, ATOMS, s), SIGNAL)
    errors = []
    for max_iter in (10, 100, 1000):
        found = gradient(lambda s, m=max_iter: unrolled(s, max_iter=m, **options)[0], SIGNAL)
        errors.append(float((found - limit).norm() / limit.norm()))
    # Below the last bound it is rounding that differs, and differently on each processor.
    assert all(later < max(error, 1e-7) for error, later in pairwise(errors))
    assert errors[-1] < 1e-7


def test_implicit_gradient_is_least_squares_on_a_singular_support():
    atoms = torch.cat([ATOMS, ATOMS], dim=1)
    codes = noise((1, 10, 6, 6), 1) * (noise((1, 10, 6, 6), 2) > 0)
    signal = torch.zeros(1, 3, 6, 6, dtype=DOUBLE).requires_grad_()
    incoming = noise(codes.shape, 3)
    found = torch.autograd.grad(differentiate_implicitly(codes, atoms, signal), signal, incoming)[0]

    support = codes.flatten().nonzero().flatten()
    columns = torch.eye(codes.numel(), dtype=DOUBLE)[support].reshape(-1, *codes.shape[1:])
    matrix = reconstruct(atoms, columns).flatten(1)
    assert torch.linalg.matrix_rank(matrix) < len(support)
    wanted = torch.linalg.pinv(matrix) @ incoming.flatten()[support]
    torch.testing.assert_close(found.flatten(), wanted, rtol=1e-8, atol=1e-8)

    unseen = torch.cat([incoming[:, :5], -incoming[:, :5]], dim=1)
    both = torch.cat([codes[:, :5], codes[:, :5]], dim=1)
    assert not torch.autograd.grad(differentiate_implicitly(both, atoms, signal), signal, unseen)[0].any()


def test_the_direct_solution_is_that_of_conjugate_gradients_and_leaves_singular_ones_to_them():
    support, incoming = noise((3, 5, 8, 9), 7) > 0.8, noise((3, 5, 8, 9), 8)
    support[2] = True
    for atoms in (ATOMS, BANK):
        found, solved = solve_on_support(atoms, support, incoming)
        # More coefficients than pixels are singular.
        assert solved.tolist() == [True, True, False]
        torch.testing.assert_close(found[:2], _least_squares(atoms, support, incoming)[:2], rtol=1e-6, atol=1e-8)
        assert not found[2].any()
    none, solved = solve_on_support(ATOMS, torch.zeros_like(support), incoming)
    assert solved.all()
    assert not none.any()


def test_gradient_of_the_objective_is_the_residual():
    signal = SIGNAL.clone().requires_grad_()
    codes = implicit(signal)
    misfit = signal - reconstruct(ATOMS, codes)
    found = torch.autograd.grad(misfit.square().sum() / 2 + 0.3 * codes.abs().sum(), signal)[0]
    torch.testing.assert_close(found, misfit.detach(), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("value", [0.0, 0.7])
@pytest.mark.parametrize(
    "coded", [implicit, lambda s: unrolled(s, rel_tol=1e-3)[0], lambda s: unrolled(s, max_iter=3)[0]]
)
def test_constant_images_have_finite_gradients(value, coded):
    found = gradient(coded, torch.full((2, 3, 6, 6), value, dtype=DOUBLE))
    assert found.isfinite().all()
    assert found.any() == (value != 0)


@pytest.mark.parametrize("coded", [implicit, lambda s, atoms: unrolled(s, atoms, rel_tol=1e-4)[0]])
@pytest.mark.parametrize("atoms", [ATOMS, BANK])
def test_gradient_does_not_depend_on_the_batch(coded, atoms):
    signal = (SIGNAL * torch.tensor([1.0, 0.01, 1.5], dtype=DOUBLE)[:, None, None, None]).requires_grad_()
    incoming = noise((3, 5, 8, 9), 4)
    together = torch.autograd.grad(coded(signal, atoms), signal, incoming)[0]
    assert not together[1].any()
    for n in range(3):
        own = atoms if len(atoms) == 1 else atoms[n : n + 1]
        alone = torch.autograd.grad(coded(signal[n : n + 1], own), signal, incoming[n : n + 1])[0][n]
        torch.testing.assert_close(together[n], alone, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("lmbda", [0.05, 0.2])
def test_implicit_gradient_in_single_precision(lmbda, high_parts):
    atoms = high_parts[None, :16, :, 8:16, 8:16]
    atoms = atoms / torch.linalg.vector_norm(atoms, dim=(2, 3, 4), keepdim=True)
    signal = high_parts[16:20]
    codes = solve_cbpdn(atoms[0], signal, lmbda).codes
    incoming = noise(signal.shape, 7)
    single, double = (
        torch.autograd.grad(
            reconstruct(atoms.to(dtype), differentiate_implicitly(codes.to(dtype), atoms.to(dtype), s)),
            s,
            incoming.to(dtype),
        )[0].double()
        for dtype, s in ((dtype, signal.to(dtype).requires_grad_()) for dtype in (torch.float32, DOUBLE))
    )
    assert float((single - double).norm() / double.norm()) < 1e-3


def test_implicit_gradient_of_any_size():
    atoms, signal = ATOMS.float(), SIGNAL.float().requires_grad_()
    codes = differentiate_implicitly(solve_cbpdn(atoms[0], signal.detach(), 0.1, rel_tol=1e-4).codes, atoms, signal)
    incoming = noise(codes.shape, 8, torch.float32)
    usual, tiny, broken = (
        torch.autograd.grad(codes, signal, factor * incoming, retain_graph=True)[0]
        for factor in (1.0, 1e-30, float("nan"))
    )
    torch.testing.assert_close(tiny * 1e30, usual, rtol=1e-3, atol=1e-3)
    assert broken.isnan().all()
