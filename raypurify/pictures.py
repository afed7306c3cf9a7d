"""Pictures for people: what purification did to images, how training went, how many clusters were chosen."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raypurify.images import decode_image
from raypurify.supervision import OF_CLASSES

AMPLIFIED = 3
PER_ROW = 8


@dataclass(frozen=True)
class Pair:
    """One image before and after purification, both as file bytes.

    ``title`` is its id, ``caption`` a line of what was done, ``atoms`` (M, 3, h, w) the dictionary that did it, ``box``
    left, top, right and bottom in pixels of the part that it did it to, where that is not all.
    """

    title: str
    before: bytes
    after: bytes
    caption: str
    atoms: np.ndarray
    box: Sequence[int] | None = None


def contact_sheet(pairs: Sequence[Pair]) -> bytes:
    """A PNG with four rows for every eight pairs: input, with its box where only a part was coded, purified, their
    difference around mid-grey, times 3, and the atoms of the cluster that was chosen."""
    strips = -(-len(pairs) // PER_ROW)
    columns = min(PER_ROW, len(pairs))
    figure, axes = pyplot().subplots(
        4 * strips, columns, figsize=(1.7 * columns + 0.5, 7.1 * strips), layout="constrained", squeeze=False
    )
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for i, pair in enumerate(pairs):
        strip, column = divmod(i, PER_ROW)
        before, after = decode_image(pair.before).pixels, decode_image(pair.after).pixels
        difference = np.clip(127.5 + AMPLIFIED * (after.astype(float) - before), 0, 255).astype(np.uint8)
        rows = {"input": before, "purified": after, f"difference ×{AMPLIFIED}": difference, "atoms": mosaic(pair.atoms)}
        for row, (name, pixels) in enumerate(rows.items()):
            axis = axes[4 * strip + row, column]
            axis.imshow(pixels, interpolation="nearest")
            if column == 0:
                axis.set_ylabel(name, fontsize=9)
        if pair.box is not None:
            _frame(axes[4 * strip, column], pair.box)
        axes[4 * strip, column].set_title(_short(pair.title), fontsize=7)
        axes[4 * strip + 1, column].set_xlabel(pair.caption, fontsize=7)
    return png(figure)


def _frame(axis: Any, box: Sequence[int]) -> None:
    """Draw the outline of a box of pixels, which are drawn around whole numbers; light on dark, to be seen on any."""
    left, top, right, bottom = box
    rectangle = pyplot().Rectangle
    for colour, width in (("black", 2.5), ("white", 1.0)):
        corner = (left - 0.5, top - 0.5)
        axis.add_patch(rectangle(corner, right - left, bottom - top, fill=False, color=colour, linewidth=width))


def mosaic(atoms: np.ndarray) -> np.ndarray:
    """A picture of atoms (M, 3, h, w) side by side, as square as can be: uint8 RGB (height, width, 3).

    Each atom is scaled to its own range around mid-grey.

    >>> mosaic(np.ones((4, 3, 8, 8))).shape
    (19, 19, 3)
    """
    count, _, height, width = atoms.shape
    across = math.isqrt(count - 1) + 1
    down = -(-count // across)
    picture = np.full((down * (height + 1) + 1, across * (width + 1) + 1, 3), 255, np.uint8)
    for k, atom in enumerate(atoms):
        top, left = (k // across) * (height + 1) + 1, (k % across) * (width + 1) + 1
        scaled = 127.5 + 127.5 * atom / max(float(np.abs(atom).max()), 1e-12)
        picture[top : top + height, left : left + width] = scaled.transpose(1, 2, 0).round().astype(np.uint8)
    return picture


def training_curve(lines: Sequence[dict[str, float]]) -> bytes:
    """A PNG of losses and accuracy, or of a denoiser PSNR, by epoch, from the lines of ``metrics.jsonl``."""
    figure, (left, right) = pyplot().subplots(1, 2, figsize=(9, 3), layout="constrained")
    epochs = [line["epoch"] + 1 for line in lines]
    losses = {"loss": "training batches", "validation_loss": "validation"} | {name: name for name in OF_CLASSES}
    accuracies = {
        "accuracy": "training batches",
        "validation_accuracy": "validation, clean",
        "validation_pgd_accuracy": "validation, PGD",
    }
    ratios = {"validation_psnr": "validation, with noise"}
    denoiser = "validation_psnr" in lines[0]
    for axis, names in ((left, losses), (right, ratios if denoiser else accuracies)):
        for key in (key for key in names if key in lines[-1]):
            # A warm-up has no semantic loss.
            axis.plot(epochs, [line.get(key, math.nan) for line in lines], label=names[key])
        axis.set(xlabel="epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.legend()
    left.set(ylabel="loss")
    right.set(**({"ylabel": "PSNR (dB)"} if denoiser else {"ylabel": "accuracy", "ylim": (0, 1)}))
    return png(figure)


def elbow_curves(classes: Sequence[str], curves: Sequence[dict[int, float]], chosen: Sequence[int]) -> bytes:
    """A PNG of each class's WCSS by its number of clusters (the first 50 classes), with the number that was chosen."""
    columns = min(5, len(classes))
    rows = -(-min(len(classes), 50) // columns)
    size = (2.4 * columns, 2 * rows)
    figure, axes = pyplot().subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for axis, name, curve, k in zip(axes.flat, classes, curves, chosen):
        axis.plot(list(curve), list(curve.values()), marker=".")
        axis.plot([k], [curve.get(k, min(curve.values()))], "o", color="C3", label=f"k = {k}")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_title(name, fontsize=9)
        axis.legend(fontsize=8)
        axis.set_yticks([])
    for axis in axes.flat[len(classes) :]:
        axis.axis("off")
    figure.supxlabel("clusters k")
    figure.supylabel("within-cluster sum of squares")
    return png(figure)


def strata_sheet(sizes: Sequence[int], images: Sequence[np.ndarray]) -> bytes:
    """A PNG of strata: left how many images are in each, right those nearest to its centroid, (n, 3, S, S) uint8."""
    columns, count = max(1, *map(len, images)), len(sizes)
    figure, axes = pyplot().subplots(
        count,
        columns + 1,
        figsize=(0.9 * columns + 3, 0.9 * count + 0.5),
        layout="constrained",
        squeeze=False,
        gridspec_kw={"width_ratios": [2.5, *[1] * columns]},
    )
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for k, (size, near) in enumerate(zip(sizes, images)):
        axes[k, 0].barh([0], [size], color=f"C{k % 10}")
        axes[k, 0].set(xlim=(0, 1.05 * max(sizes)), xlabel=f"{size:,} images, {size / sum(sizes):.0%}")
        axes[k, 0].xaxis.label.set_size(8)
        axes[k, 0].set_ylabel(f"stratum {k}", fontsize=9)
        for axis, pixels in zip(axes[k, 1:], near):
            axis.imshow(pixels.transpose(1, 2, 0), interpolation="nearest")
    return png(figure)


def pyplot() -> Any:
    """matplotlib's pyplot, drawing to memory; imported by those who draw."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot

    return matplotlib.pyplot


def png(figure: Any) -> bytes:
    """The bytes of a PNG of a figure, which is closed."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    pyplot().close(figure)
    return out.getvalue()


def _short(text: str, width: int = 26) -> str:
    """The text, or of a longer one its end, of a path from the first folder or file that fits."""
    if len(text) <= width:
        return text
    end = text[1 - width :]
    return "…" + (end[end.index("/") :] if "/" in end else end)
