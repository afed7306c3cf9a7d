"""The pictures of a report, each as the bytes of a PNG."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from raypurify.evaluation.tables import Cell
from raypurify.pictures import AMPLIFIED, mosaic, png, pyplot


class Style(NamedTuple):
    """How a purifier is drawn, the same in all figures of a report."""

    color: str
    marker: str
    line: str


def styles_of(purifiers: Collection[str], bare: Collection[str]) -> dict[str, Style]:
    """The style of each purifier: ten colours, then these again with another mark; grey and dotted for ``bare``, which
    change nothing.

    >>> styles_of(["none", "JPEG"], ["none"])["JPEG"]
    Style(color='C0', marker='o', line='-')
    """
    marks, colored = "os^Dv", [name for name in purifiers if name not in bare]
    styles = {name: Style(f"C{k % 10}", marks[k // 10 % len(marks)], "-") for k, name in enumerate(colored)}
    return {name: styles.get(name, Style("0.4", "o", ":")) for name in purifiers}


def strength_curves(
    title: str, xlabel: str, cells: dict[str, list[tuple[float, Cell]]], styles: Mapping[str, Style]
) -> bytes:
    """A plot of accuracy against the strength of an attack, a line for each purifier with its 95 % band.

    ``cells`` has each purifier's points, strength first.
    """
    figure, axis = pyplot().subplots(figsize=(7, 3.6), layout="constrained")
    for name, points in cells.items():
        color, marker, line = styles[name]
        points = sorted(points, key=lambda point: point[0])
        sizes, heights = [size for size, _ in points], [cell.accuracy for _, cell in points]
        axis.plot(sizes, heights, line, marker=marker, ms=4, color=color, label=name, clip_on=False)
        low, high = [cell.low for _, cell in points], [cell.high for _, cell in points]
        axis.fill_between(sizes, low, high, color=color, alpha=0.15, linewidth=0)
    axis.set(title=title, xlabel=xlabel, ylabel="accuracy", ylim=(0, 1))
    _legend(axis)
    return png(figure)


def bars(title: str, columns: Sequence[str], cells: dict[str, list[Cell]], styles: Mapping[str, Style]) -> bytes:
    """A plot of accuracies side by side, a group of bars for each of ``columns``, in it one for each purifier with its
    95 % interval. ``cells`` has each purifier's cells, one for each column."""
    figure, axis = pyplot().subplots(figsize=(max(7, 2 + 0.25 * len(cells) * len(columns)), 3.6), layout="constrained")
    width = 0.8 / len(cells)
    for k, (name, row) in enumerate(cells.items()):
        places = np.arange(len(columns)) + (k - (len(cells) - 1) / 2) * width
        heights = [cell.accuracy for cell in row]
        # By rounding an interval may end a hair inside of 0 or 1.
        reach = np.maximum(0, [[one.accuracy - one.low for one in row], [one.high - one.accuracy for one in row]])
        axis.bar(places, heights, width, yerr=reach, color=styles[name].color, label=name, error_kw={"linewidth": 0.8})
    axis.set_xticks(range(len(columns)), columns, fontsize=8)
    axis.set(title=title, ylabel="accuracy", ylim=(0, 1))
    _legend(axis)
    return png(figure)


def quality(title: str, points: dict[str, tuple[float, float, float]], styles: Mapping[str, Style]) -> bytes:
    """A plot of PSNR against accuracy, after figure 6 of STL.

    ``points`` has, by purifier, the PSNR in dB of the attacked images that it purified, and its accuracies on these, a
    filled mark, and on clean images, a hollow one.
    """
    figure, axis = pyplot().subplots(figsize=(7, 3.6), layout="constrained")
    for name, (ratio, attacked, clean) in points.items():
        color, marker, _ = styles[name]
        axis.plot([ratio, ratio], [attacked, clean], color=color, linewidth=1)
        axis.plot([ratio], [clean], marker, color=color, markerfacecolor="white", clip_on=False)
        axis.plot([ratio], [attacked], marker, color=color, label=name, clip_on=False)
    axis.set(title=title, xlabel="PSNR of purified attacked images (dB)", ylabel="accuracy", ylim=(0, 1))
    axis.margins(x=0.1)
    _legend(axis)
    return png(figure)


def frontier(points: dict[str, tuple[float, float]]) -> bytes:
    """A plot of mean accuracy under attack against seconds an image, a point for each purifier; a line joins those that
    no cheaper one equals, and has their names."""
    figure, axis = pyplot().subplots(figsize=(9, 4.5), layout="constrained")
    points = {name: (max(seconds, 1e-6), accuracy) for name, (seconds, accuracy) in points.items()}
    best: list[str] = []
    for name, (_, accuracy) in sorted(points.items(), key=lambda item: (item[1][0], -item[1][1])):
        if not best or accuracy > points[best[-1]][1]:
            best.append(name)
    axis.plot(*zip(*(points[name] for name in best)), color="0.6", linewidth=1, zorder=1)
    for name, later in zip(best, [*best[1:], None]):
        # Of two that would lie on each other the better one has its name.
        if later is None or points[later][0] > 1.3 * points[name][0] or points[later][1] > points[name][1] + 0.05:
            axis.annotate(name, points[name], (-5, 5), textcoords="offset points", ha="right", fontsize=7)
    for name, style in styles_of(points, []).items():
        axis.plot(*([value] for value in points[name]), style.marker, color=style.color, label=name)
    axis.set(xscale="log", xlabel="seconds an image", ylabel="mean accuracy under attack", ylim=(0, 1))
    axis.margins(x=0.12)
    _legend(axis)
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


def attention(titles: Sequence[str], rows: Mapping[str, tuple[np.ndarray, np.ndarray, Sequence[str]]]) -> bytes:
    """A picture of images side by side, each with what a classifier looks at laid over it.

    ``rows`` has, by name, images as uint8 (n, 3, H, W), their class activation maps (n, H, W) in [0, 1], and what
    stands below each; ``titles`` are above the columns.
    """
    columns = len(titles)
    figure, axes = pyplot().subplots(
        len(rows), columns, figsize=(1.5 * columns + 0.5, 1.75 * len(rows)), layout="constrained", squeeze=False
    )
    for row, (name, (images, maps, below)) in enumerate(rows.items()):
        for column in range(columns):
            axis = axes[row, column]
            axis.set(xticks=[], yticks=[])
            axis.imshow(images[column].transpose(1, 2, 0), interpolation="nearest")
            axis.imshow(maps[column], cmap="jet", alpha=0.45, vmin=0, vmax=1)
            axis.set_xlabel(below[column], fontsize=7)
        axes[row, 0].set_ylabel(name, fontsize=8)
    for column, title in enumerate(titles):
        axes[0, column].set_title(title, fontsize=7)
    return png(figure)


def layer_ratios(title: str, ratios: Mapping[str, np.ndarray]) -> bytes:
    """A plot of the total activation of each layer over that of the clean images, a line for each of ``ratios``."""
    figure, axis = pyplot().subplots(figsize=(7, 3.6), layout="constrained")
    for name, values in ratios.items():
        axis.plot(np.arange(1, len(values) + 1), values, marker=".", label=name)
    axis.axhline(1, color="0.4", linewidth=0.8, linestyle=":")
    axis.set(title=title, xlabel="layer", ylabel="activation over that of clean images")
    axis.xaxis.get_major_locator().set_params(integer=True)
    _legend(axis)
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


def _legend(axis: Any) -> None:
    # Beside the plot. The picture grows with the names, which would push the plot out of it.
    names = len(axis.get_legend_handles_labels()[1])
    columns = max(1, math.ceil(names / 16))
    width, height = axis.figure.get_size_inches()
    axis.figure.set_size_inches(width + 2.2 * (columns - 1), max(height, 0.22 * math.ceil(names / columns) + 0.4))
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), ncols=columns)
