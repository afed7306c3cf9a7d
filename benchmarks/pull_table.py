"""The tables of ``pull.py``: what each training comes to, less what the one that it is paired with does."""

from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

from raypurify.evaluation.tables import as_markdown

STARTS = {"ce": "PGD-AT", "trades": "TRADES"}
PULL = "mahalanobis"
# Before the measures by the distributions in the network's own latents.
OWN = "own_"
# What is measured, and how a table calls it: distances, and shares in percent.
MEASURES = {
    "class_clean": "nearest cluster of the right class, clean",
    "class_gray": "the same, attacked gray-box",
    "class_white": "the same, attacked itself",
    "same_gray": "nearest cluster that of the clean image, attacked gray-box",
    "same_white": "the same, attacked itself",
    "distance_clean": "distance of a clean image to its cluster",
    "shift_gray": "further from it, attacked gray-box",
    "shift_white": "further from it, attacked itself",
    "own_class_clean": "nearest cluster of the right class in its own latents, clean",
    "own_class_gray": "the same, attacked gray-box",
    "own_class_white": "the same, attacked itself",
    "clean": "accuracy of the robust network, clean",
    "white": "accuracy of the robust network, attacked itself",
    "purified_clean": "accuracy of ResNet-20, purified, clean",
    "purified_gray": "accuracy of ResNet-20, purified, attacked gray-box",
    "own_purified_clean": "the same by the nearest in its own latents, clean",
    "own_purified_gray": "the same, attacked gray-box",
}


class Arm(NamedTuple):
    """A training of the study: the semantic loss that holds the latents, and its weight α; at 0 there is none."""

    semantic: str
    alpha: float

    @property
    def folder(self) -> str:
        """What ends the name of its folder."""
        return f"{self.alpha:g}" if self.semantic == PULL else f"{self.semantic}-{self.alpha:g}"

    def __str__(self) -> str:
        return f"α = {self.alpha:g}" if self.semantic == PULL else f"{self.semantic}, α = {self.alpha:g}"


NOTHING = Arm(PULL, 0.0)


def table(results: dict) -> str:
    """Of every start a table in Markdown: means over seeds without a pull, and what the others add, of the same seeds;
    where other losses than the pull are there, another of what these add to the pull at the α of the settings, or at
    the first that there is."""
    runs = {(one["start"], Arm(one.get("semantic", PULL), one["alpha"]), one["seed"]): one for one in results["runs"]}
    usual = results.get("settings", {}).get("robust", {}).get("alpha")
    parts = []
    for start in dict.fromkeys(key[0] for key in runs):
        arms = list(dict.fromkeys(arm for begun, arm, _ in runs if begun == start))
        others = [arm for arm in arms if arm.semantic != PULL]
        pulls = [arm for arm in arms if arm.semantic == PULL and arm.alpha]
        if NOTHING in arms:
            parts.append(paired(runs, start, NOTHING, [*pulls, *others]))
        if others and pulls:
            parts.append(paired(runs, start, next((arm for arm in pulls if arm.alpha == usual), pulls[0]), others))
    return "\n\n".join(parts)


def paired(runs: dict, start: str, reference: Arm, arms: list[Arm]) -> str:
    """The table of what ``arms`` add to the ``reference``, over the seeds that have all of them."""
    seeds = [s for s in dict.fromkeys(key[2] for key in runs) if all((start, a, s) in runs for a in (reference, *arms))]
    head = [f"from {STARTS[start]}, {len(seeds)} seeds", str(reference), *(f"{a}, minus {reference}" for a in arms)]
    body = []
    for name, shown in MEASURES.items():
        scale, digits = (1, 2) if name.startswith(("shift", "distance")) else (100, 1)
        values = {a: scale * np.array([runs[start, a, s][name] for s in seeds]) for a in (reference, *arms)}
        differences = [difference(values[a] - values[reference], digits) for a in arms]
        body.append([shown, f"{values[reference].mean():.{digits}f}", *differences])
    return as_markdown(head, body)


def difference(values: np.ndarray, digits: int) -> str:
    """A mean of differences with its 95 % t interval, which one seed has not."""
    mean, count = values.mean(), len(values)
    if count < 2:
        return f"{mean:+.{digits}f}"
    half = student.ppf(0.975, count - 1) * values.std(ddof=1) / count**0.5
    return f"{mean:+.{digits}f} ({mean - half:+.{digits}f} to {mean + half:+.{digits}f})"
