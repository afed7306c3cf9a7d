"""Pictures of purified images for people to look at."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raypurify.images import decode_image

AMPLIFIED = 3
PER_ROW = 8


@dataclass(frozen=True)
class Pair:
    """One image before and after, both as file bytes, with its id and a line of what was done."""

    title: str
    before: bytes
    after: bytes
    caption: str


def contact_sheet(pairs: Sequence[Pair]) -> bytes:
    """A PNG with three rows for every eight pairs: input, purified, and their difference around mid-grey, times 3."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    strips = -(-len(pairs) // PER_ROW)
    columns = min(PER_ROW, len(pairs))
    figure, axes = plt.subplots(
        3 * strips, columns, figsize=(1.7 * columns + 0.5, 5.4 * strips), layout="constrained", squeeze=False
    )
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for i, pair in enumerate(pairs):
        strip, column = divmod(i, PER_ROW)
        before, after = decode_image(pair.before).pixels, decode_image(pair.after).pixels
        difference = np.clip(127.5 + AMPLIFIED * (after.astype(float) - before), 0, 255).astype(np.uint8)
        for row, (name, pixels) in enumerate(
            (("input", before), ("purified", after), (f"difference ×{AMPLIFIED}", difference))
        ):
            axis = axes[3 * strip + row, column]
            axis.imshow(pixels, interpolation="nearest")
            if column == 0:
                axis.set_ylabel(name, fontsize=9)
        axes[3 * strip, column].set_title(_short(pair.title), fontsize=7)
        axes[3 * strip + 1, column].set_xlabel(pair.caption, fontsize=7)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    plt.close(figure)
    return out.getvalue()


def _short(text: str, width: int = 26) -> str:
    return text if len(text) <= width else "…" + text[1 - width :]
