"""The dictionary stage of methods that code patches: patches of training images, drawn in tasks, and one that learns
from them."""

import io
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from safetensors.torch import load, save

from raypurify.files import reading
from raypurify.fit.class_latents import RETRIES
from raypurify.fit.samples import draw, fetch_samples, read_sample
from raypurify.pictures import mosaic
from raypurify.regions import AtomSettings
from raypurify.runtime.progress import shared_progress
from raypurify.storage import Place, overlapped
from raypurify.training.data import TRAIN, read_part

FOUND, PICTURE, DRAWN, FETCHED = "dictionary.safetensors", "dictionary.png", "patches", "samples"
# Images whose patches are one file.
PART = 64

Drawn: TypeAlias = Callable[[torch.Tensor, list[int]], torch.Tensor]
"""Gives patches (n, 3·b²) of images (N, 3, H, W) in [0, 1], these rows of a source."""
Learned: TypeAlias = Callable[..., torch.Tensor]
"""Gives atoms (M, 3, b, b) for patches (n, 3·b²); its ``on_patches`` hears how many were learned from."""


def learn_patches(
    folder: Place,
    prepared: Place,
    source_rows: int,
    side: int,
    settings: AtomSettings,
    seed: int,
    drawn_from: Drawn,
    learned_from: Learned,
) -> dict[str, Any]:
    """Write ``dictionary.safetensors``, the atoms (M, 3, b, b) as "atoms", and their picture into ``folder``.

    A seeded choice of training images gives its patches by ``drawn_from``, ``PART`` images a task and a file; those of
    an interrupted stage stay. Then one task learns from all of them by ``learned_from``, in one thread: what is learned
    depends on images, settings and seed alone, so that a stage which was killed at any point ends with the same bytes.

    Args:
        folder: of the stage, on storage that all nodes share.
        prepared: the folder that ``prepare`` wrote, images of 3 × ``side`` × ``side``.

    Returns:
        How many ``images`` and ``patches`` it learned from, and ``atoms`` there are.

    Raises:
        DataError: fewer patches than atoms vary.
    """
    import ray

    rows = draw(read_part(prepared, TRAIN, ["row"])["row"].to_numpy(), settings.images, (seed,))
    each = min(settings.per_image, (side - settings.size + 1) ** 2)
    starts = range(0, len(rows), PART)
    names = [f"{start:08}.safetensors" for start in starts]
    there = {*(folder / DRAWN).names()}
    missing = [start for start, name in zip(starts, names) if name not in there]
    drawn = each * (len(rows) - sum(len(rows[start : start + PART]) for start in missing))
    progress = shared_progress(folder, each * len(rows) * (1 + settings.passes), "patches", start=drawn)
    if missing:
        # Samples are disjoint sets of rows: a part's images are one, by its number among all.
        parts = [rows[start : start + PART] for start in starts]
        copies = fetch_samples(
            folder / FETCHED,
            (prepared / TRAIN).files(".parquet"),
            parts,
            source_rows,
            lambda note: ray.get(progress.add.remote(0, note)),
        )
        drawing = ray.remote(_draw).options(max_retries=RETRIES)
        how = (side, drawn_from, progress)
        numbers = [start // PART for start in missing]
        ray.get([drawing.remote(folder / DRAWN / names[n], copies, n, parts[n], *how) for n in numbers])
    learning = ray.remote(_learn).options(max_retries=RETRIES)
    atoms, count = ray.get(learning.remote([folder / DRAWN / name for name in names], learned_from, progress))
    report = write_dictionary(folder, torch.from_numpy(atoms.copy()), len(rows), count)
    for left in (FETCHED, DRAWN):
        (folder / left).delete_folder()
    return report


def load_dictionary(folder: Place) -> torch.Tensor:
    """The dictionary (M, 3, b, b) float32 that ``learn_patches`` wrote."""
    with reading(folder / FOUND):
        return load((folder / FOUND).read())["atoms"]


def write_dictionary(folder: Place, atoms: torch.Tensor, images: int, patches: int) -> dict[str, Any]:
    """Write the atoms (M, 3, b, b) and their picture as ``learn_patches``, and give its report."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(mosaic(atoms.numpy())).save(out, "PNG")
    (folder / PICTURE).write(out.getvalue())
    (folder / FOUND).write(save({"atoms": atoms.contiguous()}))
    return {"images": images, "patches": patches, "atoms": len(atoms)}


def _draw(
    file: Place,
    copies: list[Place],
    number: int,
    rows: np.ndarray,
    side: int,
    drawn_from: Drawn,
    progress: Any,
) -> None:
    images = torch.from_numpy(read_sample(copies, number, side).copy()).float() / 255
    patches = drawn_from(images, rows.tolist())
    file.write(save({"patches": patches}))
    progress.add.remote(len(patches), "drawing")


def _patches(file: Place) -> torch.Tensor:
    with reading(file):
        return load(file.read())["patches"]


def _learn(files: list[Place], learned_from: Learned, progress: Any) -> tuple[np.ndarray, int]:
    import ray

    patches = torch.cat(list(overlapped(_patches, files)))

    def on_patches(count: int) -> None:
        # Waited for, so that none is on its way when the task ends.
        ray.get(progress.add.remote(count, "learning"))

    return learned_from(patches, on_patches=on_patches).numpy(), len(patches)
