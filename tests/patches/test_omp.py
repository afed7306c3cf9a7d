"""Orthogonal matching pursuit against scikit-learn's, and what it does with signals that have no code."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import orthogonal_mp

from raypurify.errors import DataError
from raypurify.patches import omp
from raypurify.patches.omp import coded, pursue


def problem(signals, dimensions, atoms, seed=0):
    generator = torch.Generator().manual_seed(seed)
    dictionary = torch.randn(atoms, dimensions, generator=generator)
    dictionary /= dictionary.norm(dim=1, keepdim=True)
    return torch.randn(signals, dimensions, generator=generator), dictionary


@pytest.mark.parametrize("size", [(300, 12, 40, 3), (7, 48, 30, 10), (1, 5, 5, 5), (60, 4, 20, 1)])
def test_codes_are_those_of_scikit_learn(size):
    *shape, nonzeros = size
    signals, dictionary = problem(*shape)
    support = pursue(signals, dictionary, nonzeros)
    theirs = orthogonal_mp(dictionary.double().numpy().T, signals.double().numpy().T, n_nonzero_coefs=nonzeros)
    theirs = theirs.reshape(len(dictionary), -1).T
    ours = np.zeros((len(signals), len(dictionary)), bool)
    np.put_along_axis(ours, support.atoms.numpy(), True, 1)
    assert support.taken.all()
    assert (ours == (theirs != 0)).all()
    expected = theirs @ dictionary.double().numpy()
    np.testing.assert_allclose(coded(signals, dictionary, support).numpy(), expected, atol=1e-9)


def test_a_signal_of_few_atoms_is_found_and_no_more_are_taken():
    _, dictionary = problem(1, 64, 32)
    signals = torch.stack([2 * dictionary[3] - dictionary[7], torch.zeros(64), dictionary[5]])
    support = pursue(signals, dictionary, 4)
    assert {*support.atoms[0, :2].tolist()} == {3, 7}
    assert not support.taken[1].any()
    assert support.atoms[2, 0] == 5
    rebuilt = coded(signals, dictionary, support)
    torch.testing.assert_close(rebuilt, signals.double(), atol=1e-6, rtol=0)
    assert rebuilt.isfinite().all()


def test_an_atom_that_is_there_twice_is_taken_once():
    signals, dictionary = problem(20, 6, 4)
    twice = torch.cat([dictionary, dictionary])
    support = pursue(signals, twice, 5)
    assert (support.taken.sum(1) <= 4).all()
    once = coded(signals, dictionary, pursue(signals, dictionary, 4))
    torch.testing.assert_close(coded(signals, twice, support), once, atol=1e-9, rtol=0)


def test_of_an_orthonormal_basis_the_largest_coefficients_stay():
    # Equation 8 of RegionSparse.
    signals, _ = problem(50, 16, 1)
    basis = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(1)).double()).Q
    coefficients = signals.double() @ basis.T
    least = coefficients.abs().sort(1, descending=True).values[:, 4:5]
    expected = torch.where(coefficients.abs() >= least, coefficients, 0) @ basis
    torch.testing.assert_close(coded(signals, basis, pursue(signals, basis, 5)), expected, atol=1e-9, rtol=0)


def test_parts_of_any_size_give_the_same(monkeypatch):
    signals, dictionary = problem(50, 20, 30)
    whole = pursue(signals, dictionary, 4)
    rebuilt = coded(signals, dictionary, whole)
    monkeypatch.setattr(omp, "CPU_ROWS", 7)
    parts = pursue(signals, dictionary, 4)
    assert torch.equal(whole.atoms, parts.atoms)
    torch.testing.assert_close(coded(signals, dictionary, parts), rebuilt, atol=1e-12, rtol=0)
    assert pursue(signals[:0], dictionary, 4).atoms.shape == (0, 4)


def test_of_signals_with_many_atoms_fewer_are_worked_on_at_a_time(monkeypatch):
    signals, dictionary = problem(50, 20, 30)
    whole = pursue(signals, dictionary, 20)
    rebuilt = coded(signals, dictionary, whole)
    sizes: list[int] = []
    pursued = omp._pursue
    monkeypatch.setattr(omp, "_pursue", lambda left, *how: [sizes.append(len(left)), pursued(left, *how)][1])
    # What is kept of a signal is 20 × 30 numbers.
    monkeypatch.setattr(omp, "KEPT", 5 * 20 * 30)
    parts = pursue(signals, dictionary, 20)
    assert max(sizes) == 5
    assert torch.equal(whole.atoms, parts.atoms)
    torch.testing.assert_close(coded(signals, dictionary, parts), rebuilt, atol=1e-9, rtol=0)


def test_the_gradient_is_that_of_the_projection():
    signals, dictionary = problem(4, 9, 12)
    signals = signals.double().requires_grad_()
    support = pursue(signals, dictionary, 3)
    assert torch.autograd.gradcheck(lambda x: coded(x, dictionary, support), signals)


@pytest.mark.parametrize("nonzeros", [0, 7])
def test_more_atoms_than_there_are_numbers_are_refused(nonzeros):
    with pytest.raises(DataError, match=f"nonzeros={nonzeros} of 12 atoms of 6 numbers: give 1 to 6"):
        pursue(*problem(2, 6, 12), nonzeros)


def test_signals_of_another_length_are_refused():
    with pytest.raises(DataError, match="do not go together"):
        pursue(torch.rand(2, 5), torch.rand(3, 4), 1)
