"""ADMM against sporco's ConvBPDN, iteration by iteration."""

import numpy as np
import pytest
import torch
from sparse_problems import random_dictionary, random_signal

from raypurify.csc import solve_cbpdn
from raypurify.csc.admm import _inverse


def sporco_code(dictionary, signal, lmbda, iterations, rel_tol=0.0, **options):
    from sporco.admm import cbpdn

    opt = cbpdn.ConvBPDN.Options(
        {"MaxMainIter": iterations, "RelStopTol": rel_tol, "AutoRho": {"Enabled": False}, "AuxVarObj": True, **options}
    )
    solver = cbpdn.ConvBPDN(dictionary.permute(2, 3, 1, 0).numpy(), signal.permute(1, 2, 0).numpy(), lmbda, opt, dimK=0)
    codes = solver.solve().squeeze(axis=(2, 3)).transpose(2, 0, 1)
    reconstruction = solver.reconstruct().squeeze(axis=3).transpose(2, 0, 1)
    return codes, reconstruction, np.asarray(solver.getitstat().ObjFun)


def relative(ours, theirs):
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("height", "width", "size"), [(16, 16, 8), (13, 19, 5), (20, 13, 4), (9, 9, 9)])
@pytest.mark.parametrize("iterations", [1, 40])
def test_iterates_are_sporcos(dtype, height, width, size, iterations):
    dictionary, signal = random_dictionary(12, size, dtype=dtype), random_signal(2, height, width, dtype=dtype)
    ours = solve_cbpdn(dictionary, signal, 0.1, rel_tol=0.0, method="admm", max_iter=iterations)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for n in range(2):
        codes, reconstruction, objective = sporco_code(dictionary, signal[n], 0.1, iterations)
        assert relative(ours.reconstruction[n].numpy(), reconstruction) < tolerance
        assert relative(ours.codes[n].numpy(), codes) < tolerance
        assert float(ours.objective[n]) == pytest.approx(objective[-1], rel=tolerance)
    assert ours.iterations.tolist() == [iterations] * 2
    assert not ours.converged.any()


@pytest.mark.parametrize("relax", [1.0, 1.8])
@pytest.mark.parametrize("rho", [None, 3.0])
def test_stops_where_sporco_stops(relax, rho):
    dictionary, signal = random_dictionary(10, 5, dtype=torch.float64), random_signal(3, 14, 15, dtype=torch.float64)
    ours = solve_cbpdn(dictionary, signal, 0.1, rel_tol=5e-3, method="admm", rho=rho, relax=relax)
    options = {"RelaxParam": relax} | ({} if rho is None else {"rho": rho})
    for n in range(3):
        _, reconstruction, objective = sporco_code(dictionary, signal[n], 0.1, 1000, 5e-3, **options)
        assert int(ours.iterations[n]) == len(objective)
        assert relative(ours.reconstruction[n].numpy(), reconstruction) < 1e-10
    assert ours.converged.all()


def test_auto_rho_is_sporcos():
    dictionary, signal = random_dictionary(10, 5, dtype=torch.float64), random_signal(2, 14, 15, dtype=torch.float64)
    ours = solve_cbpdn(dictionary, signal, 0.1, rel_tol=1e-4, method="admm", auto_rho=True)
    for n in range(2):
        codes, _, objective = sporco_code(dictionary, signal[n], 0.1, 1000, 1e-4, AutoRho={"Enabled": True})
        assert int(ours.iterations[n]) == len(objective)
        assert relative(ours.codes[n].numpy(), codes) < 1e-8


def test_nonnegative_codes_are_sporcos():
    dictionary, signal = random_dictionary(8, 4, dtype=torch.float64), random_signal(1, 12, 12, dtype=torch.float64)
    ours = solve_cbpdn(dictionary, signal, 0.1, rel_tol=0.0, max_iter=60, nonneg=True)
    codes, _, _ = sporco_code(dictionary, signal[0], 0.1, 60, NonNegCoef=True)
    assert ours.codes.min() == 0
    assert relative(ours.codes[0].numpy(), codes) < 1e-10


def test_one_dictionary_per_image():
    bank, signal = random_dictionary(8, 5, sets=3, dtype=torch.float64), random_signal(5, 12, 13, dtype=torch.float64)
    index = torch.tensor([2, 0, 1, 0, 2])
    together = solve_cbpdn(bank, signal, 0.1, method="admm", index=index)
    for n, k in enumerate(index):
        alone = solve_cbpdn(bank[k], signal[n : n + 1], 0.1, method="admm")
        torch.testing.assert_close(together.codes[n], alone.codes[0], rtol=1e-9, atol=1e-11)
        assert together.iterations[n] == alone.iterations[0]


def test_gradient_through_the_iterations():
    dictionary = random_dictionary(3, 2, dtype=torch.float64)
    signal = random_signal(1, 4, 5, dtype=torch.float64).requires_grad_()

    def purify(s):
        return solve_cbpdn(dictionary, s, 0.05, rel_tol=0.0, max_iter=6, differentiable="unrolled").reconstruction

    assert torch.autograd.gradcheck(purify, signal)


def test_lmbda_zero_reaches_the_signal():
    signal = random_signal(1, 10, 10, dtype=torch.float64)
    res = solve_cbpdn(random_dictionary(8, 3, dtype=torch.float64), signal, 0.0, rel_tol=1e-6, rho=1.0)
    torch.testing.assert_close(res.reconstruction, signal, atol=1e-4, rtol=0)


@pytest.mark.parametrize("rank", [0, 1, 2, 3])
def test_the_inverse_per_frequency_is_exact_whatever_the_colours(rank):
    """Grey atoms make DDᴴ of rank one: what is left of it is ρ alone."""
    generator = torch.Generator().manual_seed(rank)
    parts = torch.randn(4, 3, max(1, rank), 5, 6, dtype=torch.complex128, generator=generator) * bool(rank)
    normal = torch.einsum("nimhw,njmhw->nijhw", parts, parts.conj())
    rho = torch.tensor([1e-4, 0.1, 1.0, 500.0])
    inverse = _inverse(normal, rho).permute(0, 3, 4, 1, 2)
    matrix = normal.permute(0, 3, 4, 1, 2) + rho.double()[:, None, None, None, None] * torch.eye(3)
    assert (inverse @ matrix - torch.eye(3)).abs().max() < 1e-8
    shared = _inverse(normal[:1].to(torch.complex64), rho)
    assert shared.shape == (4, 3, 3, 5, 6)
    assert shared.dtype == torch.complex64
