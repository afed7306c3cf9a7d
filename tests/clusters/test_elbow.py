import numpy as np
import pytest

from raypurify.clusters import choose_k, fit_kmeans
from raypurify.errors import DataError

hypothesis = pytest.importorskip("hypothesis")
given, st = hypothesis.given, hypothesis.strategies

curves = st.lists(st.floats(0, 1e9), min_size=1, max_size=20)


def planted(k: int, seed: int, dim: int = 32, n: int = 40) -> np.ndarray:
    """k Gaussian clusters whose centres are equally far apart: 8 standard deviations per axis, orthogonal."""
    rng = np.random.default_rng(seed)
    centres = 8 * np.linalg.qr(rng.normal(size=(dim, dim)))[0][:k]
    return (centres.repeat(n, 0) + rng.normal(size=(k * n, dim)) / np.sqrt(dim)).astype(np.float32)


@pytest.mark.parametrize("k", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_planted_number_of_clusters_is_found(k, seed):
    latents = planted(k, seed)
    assert choose_k([fit_kmeans(latents, c, seed=seed).inertia for c in range(1, 13)]) == k


def test_known_curves():
    assert choose_k([10, 4, 3, 2.5, 2.2]) == 2
    assert choose_k([10, 4, 3, 2.5, 2.2], first_k=2) == 3
    assert choose_k([10, 7, 2, 1.9, 1.8]) == 3
    # W = 1/k, no clusters: the largest distance under the chord of k = 1..9 is at √9.
    assert choose_k([1 / k for k in range(1, 10)]) == 3


def test_is_the_largest_distance_under_the_chord():
    rng = np.random.default_rng(0)
    for _ in range(100):
        curve = np.sort(rng.exponential(size=rng.integers(3, 15)))[::-1]
        n = len(curve)
        start, end = np.array([0, curve[0]]), np.array([n - 1, curve[-1]])
        # Normalising makes the vertical distance proportional to the perpendicular one.
        scaled = [(np.array([i, w]) - start) / (end - start) for i, w in enumerate(curve)]
        perpendicular = [(y - x) / np.sqrt(2) for x, y in scaled]
        assert choose_k(curve) == 1 + max(0, int(np.argmax(perpendicular)))


@pytest.mark.parametrize(
    "curve",
    [[5.0], [5.0, 1.0], [3.0, 3.0, 3.0, 3.0], [4.0, 3.0, 2.0, 1.0], [10, 9.9, 9, 5, 0], [0, 0, 0], [1, 2, 3, 4]],
    ids=["one", "two", "flat", "straight", "concave", "zero", "rising"],
)
def test_curves_without_a_bend_give_the_first_k(curve):
    assert choose_k(curve) == 1
    assert choose_k(curve, first_k=4) == 4


def test_a_bad_local_optimum_does_not_move_the_elbow():
    clean = [100, 50, 10, 9, 8, 7, 6]
    assert choose_k(clean) == 3
    for i in range(3, 7):
        noisy = list(clean)
        noisy[i] = 95
        assert choose_k(noisy) == 3


@given(curve=curves, first_k=st.integers(1, 9))
def test_always_one_of_the_candidates(curve, first_k):
    assert first_k <= choose_k(curve, first_k) < first_k + len(curve)


@given(curve=curves, scale=st.sampled_from([2.0**-20, 0.5, 1024.0]))
def test_the_unit_of_the_wcss_does_not_matter(curve, scale):
    curve = [float(round(w)) for w in curve]
    assert choose_k([w * scale for w in curve]) == choose_k(curve)


def test_bad_curves_are_named():
    with pytest.raises(DataError, match=r"inertias have shape \(0,\)"):
        choose_k([])
    with pytest.raises(DataError, match=r"inertias\[1\] is nan"):
        choose_k([3.0, float("nan"), 1.0])
    with pytest.raises(DataError, match=r"inertias\[2\] is -1"):
        choose_k([3.0, 2.0, -1.0])
