"""ADMM on a GPU against the CPU, and its kernels against their formulas.

Without a GPU the kernels run in Triton's interpreter, on a CPU.
"""

import os

import pytest
import torch
from sparse_problems import random_dictionary, random_signal

from raypurify.csc import solve_cbpdn
from raypurify.csc._admm_gpu import agrees, iterate, solve_fused
from raypurify.csc.admm import AdmmSettings, solve_admm
from raypurify.csc.convolution import atom_spectra

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def complex_normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.complex64)


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("nonneg", [False, True])
@pytest.mark.parametrize("relax", [1, 1.8])
@pytest.mark.parametrize(("count", "atoms", "height", "width"), [(1, 1, 1, 1), (3, 5, 7, 9), (2, 3, 32, 32)])
def test_update_is_the_formula(device, nonneg, relax, count, atoms, height, width):
    from raypurify.csc._gpu_kernels import update_state

    def shrink(v):
        u = v.clamp(None if nonneg else -bound, bound)
        return v - u, u

    v, w = (normal(count, atoms, height, width, seed=k) for k in (0, 1))
    threshold = torch.linspace(0.1, 0.8, count)
    bound = threshold[:, None, None, None]
    y_before, u_before = shrink(v)
    x = y_before - u_before + w
    expected = y_before + (1 - relax) * u_before + relax * w
    y, u = shrink(expected)
    norms = torch.stack([torch.linalg.vector_norm(t, dim=(1, 2, 3)) for t in (x - y, x, y, y - y_before, u)], 1)

    state, other = v.to(device), w.to(device)
    z, measured = update_state(state, other, threshold.to(device), relax, nonneg)
    torch.testing.assert_close(state.cpu(), expected)
    torch.testing.assert_close(z.cpu(), y - u)
    torch.testing.assert_close(measured.cpu().float(), norms)


def test_update_rounds_the_same_way_every_time(device):
    from raypurify.csc._gpu_kernels import update_state

    v, w = (normal(2, 8, 16, 17, seed=k).to(device) for k in (0, 1))
    threshold = torch.tensor([0.2, 0.3], device=device)
    _, first = update_state(v.clone(), w.clone(), threshold, 1.8, False)
    _, second = update_state(v.clone(), w.clone(), threshold, 1.8, False)
    assert torch.equal(first, second)


@pytest.mark.parametrize("shared_solver", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    ("rows", "atoms", "height", "width"),
    [((0,), 1, 1, 1), ((4, 0, 2), 5, 9, 8), ((0, 1, 3, 4, 5), 7, 12, 12), ((0, 1, 2, 3), 2, 16, 16)],
)
def test_correction_is_the_formula(device, shared, shared_solver, rows, atoms, height, width):
    from raypurify.csc._gpu_kernels import correct_spectra

    images, rows = 6, torch.tensor(rows)
    maps_hat = complex_normal(len(rows), atoms, height, width, seed=0)
    spectra = complex_normal(1 if shared else images, 3, atoms, height, width, seed=1)
    solver = complex_normal(1 if shared_solver else images, 3, 3, height, width, seed=2)
    signal_hat = complex_normal(images, 3, height, width, seed=3)

    chosen = spectra if shared else spectra[rows]
    residual = signal_hat[rows] - (chosen * maps_hat[:, None]).sum(2)
    dual = ((solver if shared_solver else solver[rows]) * residual[:, None]).sum(2)
    expected = (chosen.conj() * dual[:, :, None]).sum(1)

    result = correct_spectra(*(t.to(device) for t in (maps_hat, spectra, solver, signal_hat, rows)))
    torch.testing.assert_close(result.cpu(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("nonneg", [False, True])
@pytest.mark.parametrize("sets", [None, 2])
def test_iteration_is_the_eager_one(device, nonneg, sets):
    # Images of different loudness stop at different iterations; the silent one has the code zero.
    # Few atoms and iterations: in the interpreter each takes its time.
    atoms = random_dictionary(3, 3, sets=2)[: 1 if sets is None else 2]
    atoms = atoms if sets is None else atoms[torch.tensor([0, 1, 1, 0, 1])]
    signal = random_signal(5, 9, 10) * torch.tensor([1.0, 0.0, 0.3, 2.0, 1.0])[:, None, None, None]
    settings = AdmmSettings(0.1, 5e-2, None, 6.0, 1.8, False, nonneg)
    codes, iterations, converged = solve_admm(atoms, signal, settings)

    found = iterate(*(t.to(device) for t in start(atoms, signal, settings)), settings, 10_000)
    assert iterations[1] == 0
    assert len(set(iterations.tolist())) > 2
    assert found[1].tolist() == iterations.tolist()
    assert found[2].tolist() == converged.tolist()
    torch.testing.assert_close(found[0].cpu(), codes, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 2])
def test_fewer_channels_and_a_lambda_for_each_image_go_through_the_kernels(device, channels):
    atoms, signal = random_dictionary(5, 4, sets=1)[:, :, :channels], random_signal(3, 8, 9)[:, :channels]
    lmbda = torch.tensor([[0.05], [0.1], [0.2]], dtype=torch.float64)
    settings = AdmmSettings(lmbda, 1e-1, None, 50 * lmbda[:, 0] + 1, 1.8, False, False)
    codes, iterations, converged = solve_admm(atoms, signal, settings)
    found = solve_fused(atoms.to(device), signal.to(device), settings)
    assert found[1].tolist() == iterations.tolist()
    assert found[2].tolist() == converged.tolist()
    assert len(set(iterations.tolist())) > 1
    torch.testing.assert_close(found[0].cpu(), codes, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shared", [True, False])
def test_kernels_that_compute_something_else_are_found_out(device, shared, monkeypatch):
    from raypurify.csc import _gpu_kernels

    assert agrees(device, shared)
    right = _gpu_kernels.correct_spectra

    def swapped(*args):
        return right(*args).conj()

    monkeypatch.setattr(_gpu_kernels, "correct_spectra", swapped)
    assert not agrees(device, shared)


@pytest.mark.parametrize("limit", [0, 1, 7])
def test_iteration_ends_at_the_limit(device, limit):
    atoms, signal = random_dictionary(4, 3, sets=1), random_signal(2, 6, 7)
    settings = AdmmSettings(0.05, 0.0, limit, 3.5, 1.8, False, False)
    codes, _, _ = solve_admm(atoms, signal, settings)
    found, iterations, converged = iterate(*(t.to(device) for t in start(atoms, signal, settings)), settings, limit)
    assert iterations.tolist() == [limit] * 2
    assert not converged.any()
    torch.testing.assert_close(found.cpu(), codes, rtol=1e-4, atol=1e-5)


def start(atoms, signal, settings):
    """What ``solve_fused`` hands to the GPU: spectra, inverse, spectra of the signal, state, finished images."""
    spectra = atom_spectra(atoms, *signal.shape[2:])
    matrices = torch.einsum("ncmhw,ndmhw->nhwcd", spectra, spectra.conj()) + settings.rho * torch.eye(3)
    inverse = torch.linalg.inv(matrices).permute(0, 3, 4, 1, 2).expand(len(signal), -1, -1, -1, -1)
    state = signal.new_zeros(len(signal), atoms.shape[1], *signal.shape[2:])
    return spectra, inverse, torch.fft.rfft2(signal), state, signal.abs().amax((1, 2, 3)) == 0


def assert_same(ours, theirs):
    """A solve on the GPU and the same one on the CPU."""
    assert (ours.iterations.cpu() - theirs.iterations).abs().max() <= 1
    assert ours.converged.cpu().tolist() == theirs.converged.tolist()
    torch.testing.assert_close(ours.objective.cpu(), theirs.objective, rtol=1e-4, atol=1e-6)
    # Codes that stopped an iteration apart differ by what an iteration changes.
    same = ours.iterations.cpu() == theirs.iterations
    difference = torch.linalg.vector_norm(ours.codes.cpu()[same] - theirs.codes[same])
    assert difference <= 1e-4 * torch.linalg.vector_norm(theirs.codes[same])


@pytest.fixture
def fused_device(cuda):
    pytest.importorskip("triton", reason="the GPU kernels need the package triton")
    if INTERPRETED:
        pytest.skip("TRITON_INTERPRET=1: the kernels do not run on the GPU")
    return cuda


@pytest.fixture
def fused(fused_device, monkeypatch):
    """Fails the test where the solve on the GPU did not go through the fused iteration."""
    from raypurify.csc import _admm_gpu

    calls = []

    def counted(*args):
        calls.append(len(args))
        return iterate(*args)

    monkeypatch.setattr(_admm_gpu, "iterate", counted)
    yield fused_device
    assert calls


@pytest.mark.gpu
@pytest.mark.parametrize("nonneg", [False, True])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 47), (20, 13), (9, 9), (64, 50)])
@pytest.mark.parametrize("shared", [False, True])
def test_solve_is_the_cpus(fused, shared, height, width, nonneg):
    bank, signal = random_dictionary(12, 5, sets=3), random_signal(7, height, width)
    index = torch.zeros(7, dtype=torch.int64) if shared else torch.tensor([2, 0, 1, 0, 2, 1, 1])
    options = {"method": "admm", "nonneg": nonneg}
    theirs = solve_cbpdn(bank, signal, 0.1, index=index, **options)
    assert_same(solve_cbpdn(bank.to(fused), signal.to(fused), 0.1, index=index.to(fused), **options), theirs)


@pytest.mark.gpu
def test_early_and_silent_images_leave_the_batch(fused):
    scale = torch.tensor([1.0, 0.0, 0.05, 3.0, 0.3, 1.0, 0.0, 0.6])[:, None, None, None]
    dictionary, signal = random_dictionary(16, 8), random_signal(8, 32, 32) * scale
    theirs = solve_cbpdn(dictionary, signal, 0.1, method="admm")
    ours = solve_cbpdn(dictionary.to(fused), signal.to(fused), 0.1, method="admm")
    assert len(set(theirs.iterations.tolist())) > 3
    assert ours.iterations[1] == ours.iterations[6] == 0
    assert not ours.codes[1].any()
    assert_same(ours, theirs)


@pytest.mark.gpu
def test_initial_codes_and_limits(fused):
    dictionary, signal = random_dictionary(10, 5), random_signal(3, 24, 25)
    first = solve_cbpdn(dictionary, signal, 0.1, method="admm", rel_tol=1e-2)
    for options in ({"initial": first.codes}, {"max_iter": 1}, {"max_iter": 20, "rel_tol": 0.0, "relax": 1.0}):
        theirs = solve_cbpdn(dictionary, signal, 0.1, method="admm", **options)
        if "initial" in options:
            options = {"initial": first.codes.to(fused)}
        assert_same(solve_cbpdn(dictionary.to(fused), signal.to(fused), 0.1, method="admm", **options), theirs)


@pytest.mark.gpu
def test_sixteen_images_of_imagenets_size(fused):
    dictionary, signal = random_dictionary(64, 8), random_signal(16, 224, 224)
    options = {"method": "admm", "max_iter": 12, "max_bytes": 16 << 30}
    theirs = solve_cbpdn(dictionary, signal, 0.2, **options)
    assert_same(solve_cbpdn(dictionary.to(fused), signal.to(fused), 0.2, **options), theirs)


@pytest.mark.gpu
def test_offsets_beyond_31_bits(fused_device):
    # The last image of a batch of more than 2³¹ numbers has the results that it has alone.
    from raypurify.csc._gpu_kernels import correct_spectra, update_state

    count, device = 33_000, fused_device
    torch.cuda.empty_cache()
    if torch.cuda.mem_get_info()[0] < 48 << 30:
        pytest.skip("needs 48 GB of free GPU memory")
    threshold = torch.full((count,), 0.2, device=device)
    state, other = (normal(1, 64, 32, 32, seed=k).to(device) for k in (0, 1))
    many, more = state.repeat(count, 1, 1, 1), other.repeat(count, 1, 1, 1)
    _, norms = update_state(many, more, threshold, 1.8, False)
    _, norm = update_state(state, other, threshold[:1], 1.8, False)
    assert many.numel() > 2**31
    assert torch.equal(many[-1], state[0])
    assert torch.equal(more[-1], other[0])
    assert torch.equal(norms[-1], norm[0])
    del many, more

    rows = torch.zeros(count, dtype=torch.int64, device=device)
    maps_hat, spectra = complex_normal(1, 64, 32, 17, seed=0).to(device), complex_normal(1, 3, 64, 32, 17, seed=1)
    solver, signal_hat = complex_normal(1, 3, 3, 32, 17, seed=2), complex_normal(1, 3, 32, 17, seed=3)
    constants = [t.to(device) for t in (spectra, solver, signal_hat)]
    corrected = correct_spectra(maps_hat.repeat(count, 1, 1, 1), *constants, rows)
    torch.testing.assert_close(corrected[-1], correct_spectra(maps_hat, *constants, rows[:1])[0])


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{"auto_rho": True}, {"differentiable": "unrolled", "max_iter": 5}])
def test_what_the_kernels_lack_runs_without_them(cuda, monkeypatch, options):
    from raypurify.csc import _admm_gpu

    monkeypatch.setattr(_admm_gpu, "iterate", None)
    dictionary, signal = random_dictionary(6, 3).to(cuda), random_signal(2, 10, 11).to(cuda)
    signal.requires_grad_("differentiable" in options)
    assert solve_cbpdn(dictionary, signal, 0.1, method="admm", **options).codes.is_cuda
