"""What holds for a sparse code whatever the solver."""

import math

import pytest
import torch
from sparse_problems import random_dictionary, random_signal

from raypurify.csc import solve_cbpdn
from raypurify.csc.methods import METHODS
from raypurify.errors import DataError


def optimality(dictionary, signal, res, lmbda):
    """Largest step that any coefficient still asks for, in units of the correlation, relative to λ."""
    height, width = signal.shape[2:]
    spectra = torch.fft.rfft2(dictionary, s=(height, width))
    residual = torch.fft.rfft2(signal - res.reconstruction)
    beta = torch.fft.irfft2(torch.einsum("mcij,ncij->nmij", spectra.conj(), residual), s=(height, width))
    energy = dictionary.square().sum((1, 2, 3))[:, None, None]
    wanted = torch.nn.functional.softshrink(beta + energy * res.codes, lmbda)
    return float((wanted - energy * res.codes).abs().max()) / lmbda


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("height", "width", "size"), [(16, 16, 8), (13, 19, 5), (20, 13, 4), (8, 9, 8), (7, 7, 1)])
@pytest.mark.parametrize("unit", [True, False])
def test_descent_reaches_the_optimum(dtype, height, width, size, unit):
    dictionary, signal = random_dictionary(9, size, dtype=dtype), random_signal(2, height, width, dtype=dtype)
    if not unit:
        dictionary = dictionary * torch.linspace(0.0, 2.0, 9)[:, None, None, None].to(dtype)
    optimum = solve_cbpdn(dictionary.double(), signal.double(), 0.1, rel_tol=1e-7, method="admm").objective
    res = solve_cbpdn(dictionary, signal, 0.1, rel_tol=1e-4, method="cd")
    assert res.converged.all()
    assert optimality(dictionary, signal, res, 0.1) < 1.2e-3
    assert (res.objective.double() - optimum <= res.gap.double() + 1e-5 * optimum).all()
    torch.testing.assert_close(res.objective.double(), optimum, rtol=1e-5, atol=0)


def test_descent_is_never_worse_than_admm_at_the_same_tolerance(high_parts):
    dictionary = high_parts[:16, :, 8:16, 8:16]
    dictionary = dictionary / torch.linalg.vector_norm(dictionary, dim=(1, 2, 3), keepdim=True)
    for lmbda in (0.05, 0.2):
        descent, admm = (solve_cbpdn(dictionary, high_parts[16:], lmbda, method=m).objective for m in ("cd", "admm"))
        assert (descent <= admm * 1.001).all()


def test_descent_with_many_coefficients_and_with_several_blocks():
    for signal, lmbda in ((random_signal(1, 40, 40), 0.01), (random_signal(1, 65, 98), 0.25)):
        dictionary = random_dictionary(6, 5)
        res = solve_cbpdn(dictionary, signal, lmbda, rel_tol=1e-3, method="cd")
        assert optimality(dictionary, signal, res, lmbda) < 1.1e-2


@pytest.mark.parametrize("nonneg", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_residual_and_gap_are_what_they_say(method, nonneg):
    dictionary, signal = random_dictionary(7, 4, dtype=torch.float64), random_signal(3, 13, 12, dtype=torch.float64)
    best = solve_cbpdn(dictionary, signal, 0.1, rel_tol=1e-9, method="admm", nonneg=nonneg)
    assert (best.gap < 1e-6 * best.objective).all()
    assert (best.residual < 1e-6).all()
    for rel_tol in (2e-2, 1e-3):
        res = solve_cbpdn(dictionary, signal, 0.1, rel_tol=rel_tol, method=method, nonneg=nonneg)
        assert (res.objective - best.objective >= -1e-9).all()
        assert (res.objective - best.objective <= res.gap).all()
        assert res.residual.max() > 1e-5
        if not nonneg:
            torch.testing.assert_close(
                float(res.residual.max()), optimality(dictionary, signal, res, 0.1), rtol=1e-6, atol=0
            )
    if method == "cd":
        assert (res.residual <= 1e-2).all()


def test_without_a_penalty_the_gap_is_the_misfit():
    res = solve_cbpdn(random_dictionary(7, 4), random_signal(2, 9, 9), 0.0, rel_tol=1e-3)
    torch.testing.assert_close(res.gap, res.objective)
    assert torch.isfinite(res.residual).all()


def test_nonnegative_codes_of_both_methods_agree():
    dictionary, signal = random_dictionary(7, 4), random_signal(2, 14, 13)
    admm, descent = (solve_cbpdn(dictionary, signal, 0.1, rel_tol=1e-4, method=m, nonneg=True) for m in ("admm", "cd"))
    assert descent.codes.min() == admm.codes.min() == 0
    torch.testing.assert_close(descent.objective, admm.objective, rtol=1e-3, atol=0)
    assert (solve_cbpdn(dictionary, signal, 0.1, rel_tol=1e-4).objective < 0.99 * descent.objective).all()


@pytest.mark.parametrize("method", [*METHODS, "auto"])
def test_sparse_codes_are_the_dense_ones(method):
    bank, signal = random_dictionary(6, 4, sets=2), random_signal(5, 12, 11)
    signal = signal * torch.tensor([0.0, 1e-3, 1.0, 0.5, 5.0])[:, None, None, None]
    index = torch.tensor([0, 1, 1, 0, 1])
    dense, sparse = (solve_cbpdn(bank, signal, 0.1, method=method, index=index, sparse=s) for s in (False, True))
    assert sparse.codes.is_sparse
    assert sparse.codes.is_coalesced()
    assert sparse.codes._nnz() == int((dense.codes != 0).sum())
    assert torch.equal(sparse.codes.to_dense(), dense.codes)
    for field, other in zip(dense[1:], sparse[1:]):
        torch.testing.assert_close(field, other, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_a_warm_start_ends_where_it_should_and_sooner(method, sparse, high_parts):
    dictionary, signal = random_dictionary(8, 6), high_parts[:6]
    cold = solve_cbpdn(dictionary, signal, 0.1, rel_tol=1e-3, method=method, sparse=sparse)
    warm = solve_cbpdn(dictionary, signal * 1.01, 0.1, rel_tol=1e-3, method=method, initial=cold.codes)
    again = solve_cbpdn(dictionary, signal * 1.01, 0.1, rel_tol=1e-3, method=method)
    torch.testing.assert_close(warm.objective, again.objective, rtol=1e-3, atol=1e-4)
    assert warm.iterations.sum() < again.iterations.sum()
    assert optimality(dictionary, signal * 1.01, warm, 0.1) < 0.2


@pytest.mark.parametrize("method", METHODS)
def test_a_start_on_an_atom_of_zeros_is_forgotten(method):
    dictionary, signal = random_dictionary(5, 3), random_signal(1, 9, 9)
    dictionary[2] = 0
    res = solve_cbpdn(dictionary, signal, 0.1, rel_tol=1e-3, method=method, initial=torch.ones(1, 5, 9, 9))
    assert res.converged.all()
    assert not res.codes[:, 2].any()


@pytest.mark.parametrize("mask", [None, torch.ones(1, 1, 9, 9)], ids=["", "mask"])
@pytest.mark.parametrize("method", METHODS)
def test_a_start_where_zero_is_the_solution_is_forgotten(method, mask):
    torch.manual_seed(0)
    dictionary, signal = torch.randn(5, 3, 3, 3), 1e-3 * torch.randn(1, 3, 9, 9)
    res = solve_cbpdn(dictionary, signal, 1.0, method=method, initial=torch.ones(1, 5, 9, 9), mask=mask)
    assert not res.codes.any()
    assert bool(res.converged.all())


def test_padding_keeps_opposite_borders_apart():
    dictionary = random_dictionary(8, 4)
    signal = torch.zeros(1, 3, 16, 18)
    signal[:, :, :3] = random_signal(1, 3, 18)
    circular, padded = (solve_cbpdn(dictionary, signal, 0.05, rel_tol=1e-3, pad=p) for p in (0, 4))
    assert padded.codes.shape == (1, 8, 24, 26)
    assert padded.reconstruction.shape == signal.shape
    assert circular.codes[:, :, -3:].any()
    assert not padded.codes[:, :, 12:20].any()
    mirrored = torch.cat([signal[:, :, :4].flip(2), signal, signal[:, :, -4:].flip(2)], 2)
    mirrored = torch.cat([mirrored[..., :4].flip(3), mirrored, mirrored[..., -4:].flip(3)], 3)
    assert torch.equal(padded.codes, solve_cbpdn(dictionary, mirrored, 0.05, rel_tol=1e-3).codes)


def test_a_large_image_on_threads_is_solved_as_on_one(monkeypatch):
    from raypurify.csc import cd

    bank, signal = random_dictionary(6, 4, sets=1), random_signal(2, 50, 101)
    alone = solve_cbpdn(bank[0], signal, 0.1, method="cd")
    monkeypatch.setattr(cd, "_LARGE", 64)
    large = solve_cbpdn(bank[0], signal, 0.1, method="cd")
    for field, other in zip(alone, large):
        assert torch.equal(field, other)


@pytest.mark.parametrize("method", METHODS)
def test_implicit_gradient_of_the_face(method):
    dictionary, signal = random_dictionary(5, 3), random_signal(2, 8, 8).requires_grad_()
    res = solve_cbpdn(dictionary, signal, 0.1, rel_tol=1e-4, method=method, differentiable="implicit")
    (gradient,) = torch.autograd.grad(res.objective.sum(), signal)
    # By the envelope theorem: dP/ds = s − Dx.
    torch.testing.assert_close(gradient, (signal - res.reconstruction).detach(), atol=2e-3, rtol=0)
    with pytest.raises(DataError, match="implicit"):
        solve_cbpdn(dictionary, signal, 0.1, method=method)
    with torch.no_grad():
        assert not solve_cbpdn(dictionary, signal, 0.1, method=method).codes.requires_grad


def test_threads_change_nothing():
    bank, signal = random_dictionary(6, 4, sets=2), random_signal(5, 12, 12)
    index = torch.tensor([0, 1, 1, 0, 1])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = solve_cbpdn(bank, signal, 0.1, method="cd", index=index)
        torch.set_num_threads(3)
        assert torch.equal(solve_cbpdn(bank, signal, 0.1, method="cd", index=index).codes, alone.codes)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("method", [*METHODS, "auto"])
def test_batch_order_and_size_change_nothing(method):
    bank, signal = random_dictionary(8, 5, sets=3), random_signal(7, 14, 13)
    signal = signal * torch.linspace(0.2, 3, 7)[:, None, None, None]
    index = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    whole = solve_cbpdn(bank, signal, 0.1, method=method, index=index)
    order = torch.tensor([4, 2, 6, 0, 5, 1, 3])
    turned = solve_cbpdn(bank, signal[order], 0.1, method=method, index=index[order])
    alone = [solve_cbpdn(bank, signal[n : n + 1], 0.1, method=method, index=index[n : n + 1]) for n in range(7)]
    for field, again, single in zip(whole, turned, zip(*alone)):
        torch.testing.assert_close(field[order], again, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(field, torch.cat(single), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_larger_lmbda_never_gives_more_coefficients(method, high_parts):
    dictionary = random_dictionary(8, 6)
    counts = [
        int((solve_cbpdn(dictionary, high_parts[:4], lmbda, rel_tol=1e-3, method=method).codes != 0).sum())
        for lmbda in (0.05, 0.1, 0.2, 0.4, 0.8)
    ]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]


@pytest.mark.parametrize("method", [*METHODS, "auto"])
def test_nothing_gives_exactly_nothing(method):
    signal = random_signal(3, 10, 10)
    signal[1] = 0
    signal[2] *= 1e-3
    res = solve_cbpdn(random_dictionary(6, 4), signal, 0.2, method=method)
    assert res.iterations[1:].tolist() == [0, 0]
    assert not res.codes[1:].any()
    assert not res.reconstruction[1:].any()
    assert res.converged.all()
    assert res.codes[0].any()


@pytest.mark.parametrize("method", [*METHODS, "auto"])
def test_empty_batch(method):
    bank = random_dictionary(6, 4, sets=2)
    res = solve_cbpdn(bank, torch.zeros(0, 3, 10, 11), index=torch.zeros(0, dtype=torch.long), method=method)
    assert res.codes.shape == (0, 6, 10, 11)
    assert res.reconstruction.shape == (0, 3, 10, 11)
    assert res.objective.shape == res.iterations.shape == (0,)
    padded = solve_cbpdn(bank[0], torch.zeros(0, 3, 10, 11), pad=3, method=method)
    assert padded.reconstruction.shape == (0, 3, 10, 11)
    assert padded.codes.shape == (0, 6, 16, 17)


def test_auto_takes_the_quicker_method_for_each_image():
    dictionary = random_dictionary(8, 5)
    signal = random_signal(2, 14, 14) * torch.tensor([0.5, 50.0])[:, None, None, None]
    auto, descent, admm = (solve_cbpdn(dictionary, signal, 0.1, method=m) for m in ("auto", "cd", "admm"))
    assert torch.equal(auto.codes[0], descent.codes[0])
    torch.testing.assert_close(auto.codes[1], admm.codes[1], atol=1e-6, rtol=1e-5)
    assert auto.iterations.tolist() == [int(descent.iterations[0]), int(admm.iterations[1])]


@pytest.mark.parametrize("setting", [{"max_iter": 9}, {"rho": 4.0}, {"auto_rho": True}])
def test_auto_is_admm_where_its_settings_are_given(setting):
    dictionary, signal = random_dictionary(6, 4), random_signal(2, 10, 10)
    auto, admm = (solve_cbpdn(dictionary, signal, 0.1, method=m, **setting) for m in ("auto", "admm"))
    assert torch.equal(auto.codes, admm.codes)


def test_auto_without_numba(monkeypatch):
    from raypurify.csc import cd

    monkeypatch.setattr(cd, "available", lambda: False)
    dictionary, signal = random_dictionary(6, 4), random_signal(1, 10, 10)
    auto, admm = (solve_cbpdn(dictionary, signal, 0.2, method=m) for m in ("auto", "admm"))
    assert torch.equal(auto.codes, admm.codes)
    with pytest.raises(DataError, match="numba"):
        solve_cbpdn(dictionary, signal, 0.2, method="cd")


@pytest.mark.parametrize("method", METHODS)
def test_max_iter_is_kept(method):
    res = solve_cbpdn(random_dictionary(6, 4), random_signal(2, 12, 12), 0.05, method=method, max_iter=2)
    assert res.iterations.tolist() == [2, 2]
    assert not res.converged.any()
    assert res.codes.any()


D, S = random_dictionary(4, 3), random_signal(2, 8, 8)


@pytest.mark.parametrize(
    ("dictionary", "signal", "settings", "message"),
    [
        (D, S[0], {}, "signal"),
        (D, S[:, :1], {}, "signal"),
        (D, S.half(), {}, "signal"),
        (D, torch.full_like(S, math.nan), {}, "NaN"),
        (D, S[:, :, :2], {}, "smaller"),
        (D[:, :1], S, {}, "dictionary"),
        (D[:0], S, {}, "dictionary"),
        (torch.full_like(D, math.inf), S, {}, "dictionary"),
        (D[None], S, {}, "index"),
        (D, S, {"index": torch.tensor([0, 0])}, "index"),
        (D[None], S, {"index": torch.tensor([0])}, "index"),
        (D[None], S, {"index": torch.tensor([0.0, 0.0])}, "index"),
        (D[None], S, {"index": torch.tensor([0, 1])}, "index"),
        (D[None], S, {"index": torch.tensor([-1, 0])}, "index"),
        (D, S, {"lmbda": -0.1}, "lmbda"),
        (D, S, {"lmbda": math.nan}, "lmbda"),
        (D, S, {"rel_tol": 0.0}, "rel_tol"),
        (D, S, {"rel_tol": 1e-9}, "rel_tol"),
        (D, S, {"rel_tol": 1.0}, "rel_tol"),
        (D, S, {"max_iter": -1}, "max_iter"),
        (D, S, {"rho": 0.0}, "rho"),
        (D, S, {"relax": 2.0}, "relax"),
        (D, S, {"method": "fista"}, "fista"),
        (D, S, {"method": "cd", "differentiable": "unrolled"}, "admm"),
        (D, S, {"differentiable": "yes"}, "yes"),
        (D, S, {"differentiable": "implicit", "sparse": True}, "sparse"),
        (D, S, {"pad": -1}, "pad"),
        (D, S, {"initial": torch.zeros(2, 4, 8, 9)}, "initial"),
        (D, S, {"initial": torch.full((2, 4, 8, 8), math.nan)}, "initial"),
        (D, S, {"method": "cd", "lmbda": 0.0}, "admm"),
    ],
)
def test_refuses(dictionary, signal, settings, message):
    with pytest.raises(DataError, match=message):
        solve_cbpdn(dictionary, signal, **settings)
