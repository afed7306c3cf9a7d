"""The pictures of a report, each as the bytes of a PNG."""

from collections.abc import Mapping, Sequence

import numpy as np

from raypurify.evaluation.tables import Cell
from raypurify.pictures import AMPLIFIED, mosaic, png, pyplot


def eps_curves(title: str, cells: dict[str, list[tuple[float, Cell]]]) -> bytes:
    """A plot of accuracy against the size of the attack, a line for each purifier with its 95 % band."""
    figure, axis = pyplot().subplots(figsize=(6, 3.6), layout="constrained")
    for name, points in cells.items():
        points = sorted(points, key=lambda point: point[0])
        eps = [size for size, _ in points]
        (line,) = axis.plot(eps, [cell.accuracy for _, cell in points], marker=".", label=name)
        low, high = [cell.low for _, cell in points], [cell.high for _, cell in points]
        axis.fill_between(eps, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    axis.set(title=title, xlabel="size of the attack", ylabel="accuracy", ylim=(0, 1))
    axis.legend(fontsize=8)
    return png(figure)


def frontier(points: dict[str, tuple[float, float]]) -> bytes:
    """A plot of mean accuracy under attack against seconds an image, a point for each purifier."""
    figure, axis = pyplot().subplots(figsize=(6, 3.6), layout="constrained")
    for name, (seconds, accuracy) in points.items():
        axis.plot([max(seconds, 1e-6)], [accuracy], "o")
        axis.annotate(name, (max(seconds, 1e-6), accuracy), textcoords="offset points", xytext=(5, 4), fontsize=8)
    axis.set(xscale="log", xlabel="seconds an image", ylabel="mean accuracy under attack", ylim=(0, 1))
    axis.margins(x=0.2)
    return png(figure)


def image_grid(
    titles: Sequence[str], rows: Mapping[str, Sequence[np.ndarray]], atoms: Sequence[np.ndarray] | None = None
) -> bytes:
    """A picture of images side by side: ``rows`` of uint8 (3, H, W) each, below them the difference of the last two,
    and the atoms (M, 3, h, w) of each column."""
    names = [*rows, f"difference ×{AMPLIFIED}"] + (["atoms"] if atoms is not None else [])
    before, after = list(rows.values())[-2:]
    columns = len(titles)
    figure, axes = pyplot().subplots(
        len(names), columns, figsize=(1.5 * columns + 0.5, 1.55 * len(names)), layout="constrained", squeeze=False
    )
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    for column, title in enumerate(titles):
        shown = [images[column].transpose(1, 2, 0) for images in rows.values()]
        change = after[column].astype(float) - before[column]
        shown.append(np.clip(127.5 + AMPLIFIED * change, 0, 255).astype(np.uint8).transpose(1, 2, 0))
        if atoms is not None:
            shown.append(mosaic(atoms[column]))
        for row, pixels in enumerate(shown):
            axes[row, column].imshow(pixels, interpolation="nearest")
        axes[0, column].set_title(title, fontsize=7)
    for row, name in enumerate(names):
        axes[row, 0].set_ylabel(name, fontsize=8)
    return png(figure)


def confusion(counts: np.ndarray, classes: Sequence[str], title: str) -> bytes:
    """A confusion matrix: class of an image (rows) against class of the cluster that was chosen for it.

    ``counts`` is (classes, classes); it is drawn with figures for up to 20 classes.
    """
    side = max(4.0, 0.45 * len(classes))
    figure, axis = pyplot().subplots(figsize=(side + 1, side), layout="constrained")
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axis.imshow(share, vmin=0, vmax=1, cmap="Blues")
    if len(classes) <= 20:
        axis.set_xticks(range(len(classes)), classes, rotation=60, ha="right", fontsize=8)
        axis.set_yticks(range(len(classes)), classes, fontsize=8)
        for i, j in np.ndindex(*counts.shape):
            if counts[i, j]:
                color = "white" if share[i, j] > 0.5 else "black"
                axis.text(j, i, f"{100 * share[i, j]:.0f}", ha="center", va="center", fontsize=7, color=color)
    axis.set(title=title, xlabel="class of the chosen cluster", ylabel="class")
    return png(figure)


def distances(clean: np.ndarray, attacked: dict[str, np.ndarray]) -> tuple[bytes, dict[str, float]]:
    """Histograms of the Mahalanobis distance, and the ROC of a flag on it; also the area under each curve.

    The area is the probability that an attacked image is farther from its cluster than a clean one (ties count half).
    """
    figure, (left, right) = pyplot().subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    edges = np.histogram_bin_edges(np.concatenate([clean, *attacked.values()]), 50)
    left.hist(clean, edges, histtype="step", label="clean", color="black")
    areas = {}
    for name, values in attacked.items():
        (line,) = right.plot(*roc(clean, values), label=name)
        left.hist(values, edges, histtype="step", label=name, color=line.get_color())
        areas[name] = area_under_roc(clean, values)
    left.set(xlabel="Mahalanobis distance to the nearest cluster", ylabel="images")
    right.plot([0, 1], [0, 1], color="grey", linewidth=0.5)
    right.set(xlabel="clean images flagged", ylabel="attacked images flagged", xlim=(0, 1), ylim=(0, 1))
    left.legend(fontsize=8)
    return png(figure), areas


def roc(clean: np.ndarray, attacked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ROC curve of a flag: shares of clean and of attacked images above every threshold, from none to all."""
    thresholds = np.sort(np.concatenate([clean, attacked, [np.inf, -np.inf]]))[::-1]
    first, second = (1 - np.searchsorted(np.sort(v), thresholds, "left") / len(v) for v in (clean, attacked))
    return first, second


def area_under_roc(clean: np.ndarray, attacked: np.ndarray) -> float:
    """The area under the ROC curve of a flag, from distances of clean images (n,) and of attacked ones (m,).

    >>> area_under_roc(np.array([1.0, 2.0]), np.array([3.0, 2.0]))
    0.875
    """
    ordered = np.sort(clean)
    below = np.searchsorted(ordered, attacked, "left") + np.searchsorted(ordered, attacked, "right")
    return float(below.mean() / (2 * len(clean)))
