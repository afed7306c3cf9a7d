"""Descent on a GPU against descent on a CPU and against the conditions of optimality.

Without a GPU its kernels run in Triton's interpreter, an operation of NumPy for each of theirs: problems are tiny.
"""

import itertools
import json

import pytest
import torch

from raypurify.csc import _descent_gpu, _descent_sets, solve_cbpdn
from raypurify.csc._descent_cells import divide
from raypurify.csc._gpu_use import usable
from raypurify.csc.convolution import reconstruct
from raypurify.csc.implicit import differentiate_implicitly
from raypurify.csc.levels import penalties
from raypurify.csc.optimality import Solution, extremes, quality
from raypurify.errors import DataError

REL_TOL = 5e-3
TOL = 10 * REL_TOL
LMBDA = torch.tensor([[0.65], [0.85], [0.75]], dtype=torch.float64)
INDEX = torch.tensor([1, 0, 1])


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unit_atoms(*shape, seed=0):
    drawn = normal(*shape, seed=seed)
    return drawn / torch.linalg.vector_norm(drawn, dim=(-3, -2, -1), keepdim=True)


# No side is a multiple of a patch, of a cell or of a program's pixels, and atoms are not square.
BANK, SIGNAL = unit_atoms(2, 4, 3, 4, 3), 0.3 * normal(3, 3, 11, 13, seed=1)


def dense(found, atoms, like):
    codes = torch.zeros(len(like), atoms, *like.shape[2:], dtype=torch.float64)
    codes[tuple(found.place.cpu())] = found.value.cpu().double()
    return codes


def judged(found, atoms, signal, lmbda, nonneg=False, mask=None):
    """Objective and violation in units of λ of what the kernels found, in double precision on the CPU."""
    atoms, signal, mask = atoms.double(), signal.double(), None if mask is None else mask.double()
    codes = dense(found, atoms.shape[1], signal)
    rest = signal - reconstruct(atoms, codes)
    torch.testing.assert_close(found.rest.cpu().double(), rest, rtol=1e-4, atol=1e-5)
    violation, top = extremes(atoms, codes, rest, lmbda, nonneg, mask)
    solution = Solution(codes, rest, found.rounds, None, penalties(codes, lmbda), violation, top)
    objective, residual, _ = quality(solution, signal, lmbda, mask)
    return objective, residual


def solve(device, bank, index, signal, lmbda, tol=TOL, **options):
    options = {name: value.to(device) if torch.is_tensor(value) else value for name, value in options.items()}
    return _descent_gpu.solve(*(each.to(device) for each in (bank, index, signal, lmbda)), tol, **options)


def assert_solved(found, bank, index, signal, lmbda, **options):
    """Optimal to the tolerance, and no worse than descent on the CPU."""
    pytest.importorskip("numba", reason="descent on a CPU needs Numba")
    given = lmbda[:, 0] if lmbda.shape[1] == 1 else lmbda
    theirs = solve_cbpdn(bank, signal, given, REL_TOL, "cd", index, **options)
    checked = {name: options[name] for name in ("nonneg", "mask") if name in options}
    objective, residual = judged(found, bank[index], signal, lmbda, **checked)
    assert found.value.numel()
    assert (residual <= TOL * (1 + 1e-4)).all()
    torch.testing.assert_close(objective, theirs.objective.double(), rtol=1e-3, atol=0)


def assert_same_image(batch, n, alone):
    chosen = batch.place[0] == n
    assert torch.equal(batch.place[1:, chosen], alone.place[1:])
    for ours, theirs in zip((batch.value[chosen], batch.rest[n], batch.rounds[n]), (alone.value, *alone[2:4])):
        assert torch.equal(ours, theirs.reshape(ours.shape))


@pytest.fixture(scope="module")
def batch(device):
    return solve(device, BANK, INDEX, SIGNAL, LMBDA)


def test_a_batch_of_dictionaries_and_weights_is_solved(batch):
    assert_solved(batch, BANK, INDEX, SIGNAL, LMBDA)
    assert len(set(batch.rounds.tolist())) > 1
    # What it says of itself is what arithmetic in double precision says.
    _, residual = judged(batch, BANK[INDEX], SIGNAL, LMBDA)
    torch.testing.assert_close(batch.violation.cpu() / LMBDA[:, 0].float(), residual.float(), rtol=0, atol=1e-4)
    assert (batch.value != 0).all()


@pytest.mark.parametrize("n", [0, 2])
def test_an_image_alone_has_the_bits_that_it_has_in_a_batch(device, batch, n):
    one = slice(n, n + 1)
    assert_same_image(batch, n, solve(device, BANK, INDEX[one], SIGNAL[one], LMBDA[one]))


def test_cells_that_run_out_of_room_lose_nothing(device, batch, monkeypatch):
    monkeypatch.setattr(_descent_sets, "ROOM", 2)
    assert_same_image(batch, 0, solve(device, BANK, INDEX[:1], SIGNAL[:1], LMBDA[:1]))


def test_what_is_chosen_badly_is_found_out_in_float32(device, monkeypatch):
    # The chooser multiplies with other atoms, wrong by 30 %: more rounds, the same tolerance.
    from raypurify.csc import _gpu_screen

    right = _gpu_screen.lay_taps

    def wrong(*args):
        taps = right(*args)
        noise = normal(*taps.exact.shape, seed=3).to(taps.exact)
        return taps._replace(chooser=(taps.exact * (1 + 0.3 * noise)).to(taps.chooser.dtype))

    monkeypatch.setattr(_gpu_screen, "lay_taps", wrong)
    found = solve(device, BANK, INDEX[1:2], SIGNAL[1:2], LMBDA[1:2])
    assert_solved(found, BANK, INDEX[1:2], SIGNAL[1:2], LMBDA[1:2])


def test_an_image_that_seems_finished_is_screened_in_float32(device, monkeypatch):
    # The chooser sees nothing at all, so that every image seems finished at once.
    from raypurify.csc import _gpu_screen

    right = _gpu_screen.lay_taps

    def blind(*args):
        taps = right(*args)
        return taps._replace(chooser=torch.zeros_like(taps.chooser))

    monkeypatch.setattr(_gpu_screen, "lay_taps", blind)
    found = solve(device, BANK, INDEX[1:2], SIGNAL[1:2], LMBDA[1:2])
    assert found.rounds.item() > 0
    assert_solved(found, BANK, INDEX[1:2], SIGNAL[1:2], LMBDA[1:2])


@pytest.mark.parametrize("nonneg", [False, True])
def test_screening_finds_the_best_of_each_patch(device, nonneg):
    from raypurify.csc._gpu_screen import PATCH, lay_taps, screen

    (height, width), (h, w) = SIGNAL.shape[2:], BANK.shape[3:]
    rows, columns = torch.arange(height + h - 1) % height, torch.arange(width + w - 1) % width
    residual = SIGNAL[:, :, rows][:, :, :, columns].contiguous()
    pairs = zip(residual.double(), BANK[INDEX].double())
    beta = torch.stack([torch.nn.functional.conv2d(one[None], atoms)[0] for one, atoms in pairs])
    score = beta if nonneg else beta.abs()
    patches = torch.nn.functional.max_pool2d(score.amax(1), PATCH, ceil_mode=True).flatten(1)
    bank, residual, which = BANK.to(device), residual.to(device), INDEX.to(device)
    best, keys = (
        torch.full(patches.shape, -7.0, device=device),
        torch.zeros(patches.shape, dtype=torch.int32).to(device),
    )

    taps = lay_taps(bank, height, width)
    screen(residual, bank, taps, which, best, keys, nonneg)
    chosen = score.flatten(1).gather(1, keys.cpu().long())
    torch.testing.assert_close(best.cpu().double(), chosen, rtol=1e-5, atol=1e-6)
    # Reduced precision chooses what is best, or as good but for its rounding.
    assert (chosen >= patches - 0.02 * patches.amax()).all()

    best.fill_(-7)
    screen(residual, bank, taps, which, best, keys, nonneg, torch.tensor([True, False, True]).to(device))
    torch.testing.assert_close(best.cpu().double()[::2], patches[::2], rtol=1e-5, atol=1e-6)
    assert (best[1] == -7).all()


def test_a_mask_weights_of_atoms_a_start_and_no_negative_codes(device):
    pytest.importorskip("numba", reason="descent on a CPU needs Numba")
    lmbda = 0.6 + 0.2 * torch.rand(2, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    mask = (torch.rand(2, 3, 11, 13, generator=torch.Generator().manual_seed(4)) > 0.3) * 0.9
    start = solve_cbpdn(BANK, SIGNAL[:2], 0.6, REL_TOL, "cd", INDEX[:2], sparse=True).codes
    options = {"nonneg": True, "mask": mask, "initial": start}
    found = solve(device, BANK, INDEX[:2], SIGNAL[:2], lmbda, **options)
    assert_solved(found, BANK, INDEX[:2], SIGNAL[:2], lmbda, **options)
    assert (found.value > 0).all()
    assert (start.values() < 0).any()


def test_a_solved_start_takes_no_round(device, batch):
    codes = dense(batch, 4, SIGNAL).float()
    again = solve(device, BANK, INDEX, SIGNAL, LMBDA, tol=TOL * (1 + 1e-4), initial=codes)
    assert not again.rounds.any()
    assert torch.equal(dense(again, 4, SIGNAL).float(), codes)


@pytest.mark.parametrize("nonneg", [False, True])
def test_codes_are_zero_from_the_largest_correlation_on(device, nonneg):
    top = solve(device, BANK, INDEX, SIGNAL, LMBDA, max_iter=0, nonneg=nonneg).top.cpu()
    found = solve(device, BANK, INDEX, SIGNAL, 1.0001 * top.double()[:, None], tol=1e-6, nonneg=nonneg)
    assert not found.value.numel()
    assert not found.rounds.any()
    assert torch.equal(found.rest.cpu(), SIGNAL)
    beta = torch.stack([extremes(BANK[k][None], s.new_zeros(1, 4, 11, 13), s[None], LMBDA[:1], nonneg)[1][0]
                        for k, s in zip(INDEX, SIGNAL)])  # fmt: skip
    torch.testing.assert_close(top, beta)


@pytest.mark.parametrize("shape", [(5, 4), (9, 3)])
def test_images_hardly_larger_than_atoms(device, shape):
    atoms, signal, index = unit_atoms(1, 2, 1, 5, 3), 0.5 * normal(1, 1, *shape, seed=5), torch.zeros(1).long()
    lmbda = torch.full((1, 1), 0.3, dtype=torch.float64)
    assert_solved(solve(device, atoms, index, signal, lmbda), atoms, index, signal, lmbda)


def test_rounds_end_at_the_limit_and_say_what_is_left(device):
    lmbda = torch.full((1, 1), 0.5, dtype=torch.float64)
    found = solve(device, BANK, INDEX[:1], SIGNAL[:1], lmbda, tol=1e-3, max_iter=1)
    _, residual = judged(found, BANK[INDEX[:1]], SIGNAL[:1], lmbda)
    assert found.rounds.tolist() == [1]
    assert residual > 1e-3
    torch.testing.assert_close(found.violation.cpu() / 0.5, residual.float(), rtol=1e-3, atol=1e-4)


def test_solver_takes_the_kernels_where_they_apply(device, batch, monkeypatch):
    monkeypatch.setattr(_descent_gpu, "applies", lambda *_: True)
    atoms, signal, index, lmbda = (t.clone().to(device) for t in (BANK, SIGNAL, INDEX, LMBDA[:, 0]))
    # One image at a time, as the memory allows no more.
    code = solve_cbpdn(atoms, signal, lmbda, REL_TOL, method="cd", index=index, sparse=True, max_bytes=80 * 11 * 13)
    assert code.codes.is_sparse
    assert code.converged.all()
    assert torch.equal(code.codes.indices(), batch.place)
    assert torch.equal(code.codes.values(), batch.value)
    assert code.iterations.tolist() == batch.rounds.tolist()
    objective, residual = judged(batch, BANK[INDEX], SIGNAL, LMBDA)
    torch.testing.assert_close(code.objective.cpu().double(), objective, rtol=1e-5, atol=0)
    torch.testing.assert_close(code.residual.cpu().double(), residual, rtol=0, atol=1e-4)
    torch.testing.assert_close(code.reconstruction.cpu(), SIGNAL - batch.rest.cpu())

    start = dense(batch, 4, SIGNAL).float().to(device)
    smooth = signal.requires_grad_()
    options = {"initial": start, "rel_tol": 2 * REL_TOL, "method": "cd", "differentiable": "implicit"}
    solve_cbpdn(atoms, smooth, lmbda, index=index, **options).reconstruction.square().sum().backward()
    given = SIGNAL.clone().requires_grad_()
    codes = differentiate_implicitly(start.cpu(), BANK[INDEX], given)
    reconstruct(BANK[INDEX], codes).square().sum().backward()
    torch.testing.assert_close(smooth.grad.cpu(), given.grad, rtol=1e-3, atol=1e-5)


def test_kernels_that_compute_something_else_are_found_out(device, monkeypatch):
    from raypurify.csc import _gpu_screen

    assert _descent_gpu.agrees(device)
    # Nothing is found, so that descent ends before it begins.
    monkeypatch.setattr(_gpu_screen, "screen", lambda residual, bank, taps, which, best, *_: best.zero_())
    assert not _descent_gpu.agrees(device)


def test_kernels_that_do_not_run_are_warned_of(device):
    def broken(_):
        raise RuntimeError("no compiler")

    with pytest.warns(RuntimeWarning, match="Descent runs without its fused GPU kernels: .*no compiler"):
        assert not usable(device, "Descent", broken)


@pytest.mark.parametrize(
    "full",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
        MemoryError(),
    ],
    ids=lambda full: type(full).__name__ + str(full)[:6],
)
def test_a_card_that_was_full_once_is_asked_again(device, full):
    asked = []

    def at_first_without_room(_):
        asked.append(None)
        if len(asked) == 1:
            raise full
        return True

    with pytest.raises(type(full)) as raised:
        usable(device, "Descent", at_first_without_room)
    assert raised.value is full
    assert usable(device, "Descent", at_first_without_room)
    assert usable(device, "Descent", at_first_without_room)
    # What was found once is not found again.
    assert len(asked) == 2


def test_windows_of_a_colour_are_disjoint():
    for length, atom in itertools.product(range(1, 41), range(1, 17)):
        if atom > length:
            continue
        side = divide(length, atom)
        begin = [-(-i * length // side.parts) for i in range(side.parts + 1)]
        cells = [range(*pair) for pair in itertools.pairwise(begin)]
        windows = [{(p + a) % length for p in cell for a in range(atom)} for cell in cells]
        assert max(map(len, windows)) <= side.window
        assert max(map(len, cells)) <= side.cell
        assert sorted(itertools.chain(*side.colours())) == [*range(side.parts)]
        for colour in side.colours():
            assert sum(len(windows[i]) for i in colour) == len(set().union(*(windows[i] for i in colour)))
        # What reaches a cell lies in it or in the one before it.
        for i, cell in enumerate(cells):
            reached = {j for j in range(side.parts) if windows[j] & {*cell}}
            assert reached <= {i, (i - 1) % side.parts}


def test_memory_of_imagenets_size_is_half_a_gigabyte():
    bank, signal = torch.zeros(1, 64, 3, 8, 8), torch.zeros(1, 3, 224, 224)
    assert 64 * _descent_gpu.bytes_per_image(bank, signal, own_weights=False, masked=True) < 0.5e9


def test_benchmark_compares_descent_with_the_longer_of_two_floors(benchmark):
    bench = benchmark("csc_gpu")
    atoms, signals, rounds = BANK[0].new_zeros(64, 3, 8, 8), SIGNAL.new_zeros(2, 3, 224, 224), torch.tensor([19, 9])
    # 64 · 192 products and as many sums a pixel, 20 + 10 times: 1.23 GFLOP each; or 60 bytes a pixel.
    floor = bench.descent_floor(atoms, signals, rounds, bench.Speeds(bandwidth=1e12, operations=1e12))
    assert floor == pytest.approx(30 * 1.233e-3, rel=1e-3)
    floor = bench.descent_floor(atoms, signals, rounds, bench.Speeds(bandwidth=1e12, operations=1e18))
    assert floor == pytest.approx(30 * 224 * 224 * 60e-12)

    records = [json.loads(line) for line in bench.RESULTS.read_text("utf-8").splitlines()]
    admm = [r for r in records if r.get("method", "admm") == "admm"]
    descent = {"case": "8², batch 1, one", "method": "cd", "ms_per_image": 1.5, "iterations": 9.0}
    descent |= {"share_of_floor": 0.25, "peak_gigabytes": 0.5, "excess": -0.001}
    both = bench.table([*admm, descent])
    assert both.startswith(bench.table(admm) + "\n\n")
    assert both.endswith("| 8², batch 1, one | 1.500 | 9 | 25 % | 0.50 GB | -0.10 % |")


@pytest.mark.gpu
@pytest.mark.parametrize("nonneg", [False, True])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 47), (19, 13), (9, 9), (64, 50)])
def test_solve_on_the_card_is_as_good_as_the_cpus(cuda, height, width, nonneg):
    bank, signal, index = unit_atoms(3, 64, 3, 8, 8), 0.3 * normal(7, 3, height, width, seed=1), torch.arange(7) % 3
    lmbda = torch.linspace(0.3, 0.7, 7, dtype=torch.float64)[:, None]
    assert _descent_gpu.applies(bank.to(cuda), signal.to(cuda))
    found = solve(cuda, bank, index, signal, lmbda, nonneg=nonneg)
    assert_solved(found, bank, index, signal, lmbda, nonneg=nonneg)
    again = solve(cuda, bank, index, signal, lmbda, nonneg=nonneg)
    assert torch.equal(found.value, again.value)
    for n in (0, 6):
        one = slice(n, n + 1)
        assert_same_image(found, n, solve(cuda, bank, index[one], signal[one], lmbda[one], nonneg=nonneg))


@pytest.mark.gpu
def test_sixty_four_images_of_imagenets_size_take_half_a_gigabyte(cuda):
    atoms, signal = unit_atoms(64, 3, 8, 8).to(cuda), 0.15 * normal(64, 3, 224, 224, seed=1).to(cuda)
    solve_cbpdn(atoms, signal[:1], 0.5, method="cd", sparse=True)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    code = solve_cbpdn(atoms, signal, 0.5, method="cd", sparse=True)
    # Images twice, with their reconstructions, and the codes are the result, not what it takes.
    result = 2 * signal.nbytes + 2 * 36 * code.codes.values().numel()
    assert torch.cuda.max_memory_allocated() - before - result < 0.5e9
    assert code.residual.max() <= TOL
    few = solve_cbpdn(atoms.cpu(), signal[:2].cpu(), 0.5, method="cd")
    torch.testing.assert_close(code.objective[:2].cpu(), few.objective, rtol=1e-3, atol=0)


@pytest.mark.gpu
def test_what_descent_on_the_card_lacks_is_left_to_admm(cuda):
    atoms, signal = unit_atoms(4, 3, 4, 4).to(cuda).double(), normal(2, 3, 11, 12, seed=1).to(cuda).double()
    assert solve_cbpdn(atoms, signal, 0.5).codes.is_cuda
    with pytest.raises(DataError, match="float32"):
        solve_cbpdn(atoms, signal, 0.5, method="cd")
    smooth = signal.float().requires_grad_()
    code = solve_cbpdn(atoms.float(), smooth, 0.5, method="cd", differentiable="implicit")
    code.reconstruction.square().sum().backward()
    assert smooth.grad.abs().sum() > 0
