"""An image in tiles is the image at once."""

import pytest
import torch
from sparse_problems import random_dictionary, random_signal

from raypurify.csc import solve_cbpdn
from raypurify.errors import DataError

METHODS = ["admm", "cd"]
BYTES = {"admm": 20 * 9 * 4, "cd": 20 * 4}  # a pixel, for 9 atoms in float32


def cap(method, side):
    """Working memory that gives tiles of ``side`` between overlaps of eight atoms of 4×4."""
    return BYTES[method] * (side + 2 * 8 * 4) ** 2


def natural(high_parts, down, right):
    """A large picture: the high parts side by side."""
    return torch.cat([torch.cat(list(high_parts[i * right : (i + 1) * right]), 2) for i in range(down)], 1)[None]


@pytest.fixture(scope="module")
def learned(high_parts):
    dictionary = high_parts[:9, :, 8:12, 8:12]
    return dictionary / torch.linalg.vector_norm(dictionary, dim=(1, 2, 3), keepdim=True)


@pytest.mark.parametrize(("method", "side"), [("admm", 60), ("cd", 21), ("cd", 60)])
def test_tiles_agree_with_the_whole(method, side, learned, high_parts):
    signal = natural(high_parts, 4, 5)[:, :, :120, :155]
    settings = {"lmbda": 0.05, "rel_tol": 1e-4, "method": method, "sparse": True}
    whole = solve_cbpdn(learned, signal, **settings)
    tiled = solve_cbpdn(learned, signal, **settings, max_bytes=cap(method, side))
    assert tiled.converged.all()
    error = torch.linalg.vector_norm(tiled.reconstruction - whole.reconstruction)
    assert 0 < error < 1e-3 * torch.linalg.vector_norm(whole.reconstruction)
    torch.testing.assert_close(tiled.objective, whole.objective, rtol=1e-4, atol=0)
    assert tiled.residual < 0.1
    assert abs(tiled.codes._nnz() / whole.codes._nnz() - 1) < 0.02


@pytest.mark.parametrize("nonneg", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_measures_of_a_tiled_image_are_those_of_its_codes(method, nonneg):
    dictionary, signal = random_dictionary(9, 4), random_signal(1, 90, 101)
    tiled = solve_cbpdn(dictionary, signal, 0.2, method=method, nonneg=nonneg, max_bytes=cap(method, 20))
    # A solver that starts from the codes and may not move measures the same.
    same = solve_cbpdn(dictionary, signal, 0.2, method="cd", nonneg=nonneg, initial=tiled.codes, max_iter=0)
    for name in ("reconstruction", "objective", "residual", "gap"):
        torch.testing.assert_close(getattr(tiled, name), getattr(same, name), atol=2e-5, rtol=2e-4)


def test_tiles_and_whole_images_of_one_bank():
    bank, signal = random_dictionary(9, 4, sets=3), random_signal(3, 90, 85)
    index = torch.tensor([2, 0, 1])
    tiled = solve_cbpdn(bank, signal, 0.3, rel_tol=1e-3, index=index, max_bytes=cap("cd", 16))
    whole = solve_cbpdn(bank, signal, 0.3, rel_tol=1e-3, index=index)
    torch.testing.assert_close(tiled.objective, whole.objective, rtol=1e-3, atol=0)
    assert not torch.equal(tiled.codes, whole.codes)


def test_admm_in_smaller_groups_is_the_same():
    dictionary, signal = random_dictionary(9, 4), random_signal(5, 20, 20)
    few, many = (
        solve_cbpdn(dictionary, signal, 0.2, method="admm", max_bytes=n * BYTES["admm"] * 400) for n in (2, 100)
    )
    torch.testing.assert_close(few.codes, many.codes, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("settings", [{"differentiable": "implicit"}, {"initial": torch.zeros(1, 9, 90, 90)}])
def test_tiles_refuse_what_needs_the_whole(settings):
    with pytest.raises(DataError, match="max_bytes"):
        solve_cbpdn(random_dictionary(9, 4), random_signal(1, 90, 90), 0.2, max_bytes=cap("cd", 16), **settings)


def test_too_small_a_cap_names_what_is_needed():
    with pytest.raises(DataError, match="smallest tile needs 369920 bytes"):
        solve_cbpdn(random_dictionary(9, 4), random_signal(1, 60, 60), 0.2, max_bytes=1000)
