"""The elbow of a WCSS curve, by the chord rule."""

from collections.abc import Sequence

import numpy as np

from raypurify.errors import DataError

# Below this share of the curve's height a distance under the chord is rounding, not a bend.
_STRAIGHT = 1e-9


def choose_k(inertias: Sequence[float], first_k: int = 1) -> int:
    """The number of clusters at the elbow; ``inertias[i]`` is the WCSS of ``first_k + i`` clusters.

    RSFP section III-C asks for "the elbow" and gives no formula. The rule here is the largest distance under the chord
    of the normalised curve (Satopää et al., "Finding a 'Kneedle' in a haystack", 2011, without smoothing, since a WCSS
    curve has a handful of points)::

        x_i = i / (n − 1),   y_i = (W_i − W_min) / (W_max − W_min),   k = first_k + argmax_i (1 − x_i − y_i)

    The best WCSS never grows with k, so each W_i first becomes the least of W_0..W_i: a local optimum that k-means got
    stuck in cannot make a second bend. Ties go to the smaller k.

    Answers at the edges: one or two values, a flat, a straight or a concave curve have no bend: ``first_k``.

    What the rule cannot do: the ends of a bent curve lie on the chord, so the answer is neither the first nor the last
    k, and it leans towards small k when clusters differ in their distances. Try up to twice as many clusters as
    expected. Data without clusters has a smooth, bent curve as well: expect an answer of 4 or 5 up to k = 12, not 1.

    Raises DataError for an empty curve or values that are negative or not finite.

    >>> choose_k([100.0, 30.0, 10.0, 9.0, 8.0, 7.5])
    3
    """
    curve = np.asarray(inertias, dtype=np.float64)
    if curve.ndim != 1 or curve.size == 0:
        raise DataError(f"inertias have shape {curve.shape}: expected a list with one WCSS per number of clusters")
    bad = np.flatnonzero(~(np.isfinite(curve) & (curve >= 0)))
    if len(bad):
        raise DataError(f"inertias[{bad[0]}] is {curve[bad[0]]}: a WCSS is a finite number >= 0")
    curve = np.minimum.accumulate(curve)
    height = curve[0] - curve[-1]
    if height <= 0 or len(curve) < 3:
        return first_k
    under_chord = 1 - np.linspace(0, 1, len(curve)) - (curve - curve[-1]) / height
    best = int(under_chord.argmax())
    return first_k + (best if under_chord[best] > _STRAIGHT else 0)
