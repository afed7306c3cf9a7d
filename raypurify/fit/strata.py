"""The strata stage: PCA and k-means over the latents of all classes together, in a task that spreads the passes."""

from typing import Any

import numpy as np
from safetensors.torch import load, save

from raypurify.clusters.examples import nearest_examples
from raypurify.clusters.files import write_labels
from raypurify.clusters.strata import Strata, fit_strata
from raypurify.config import StrataSettings
from raypurify.errors import BundleError
from raypurify.files import read_object, reading, write_json
from raypurify.fit.class_latents import RETRIES, Piece, open_class, pieces_of, telling_passes
from raypurify.fit.latents import PARTS
from raypurify.fit.samples import fetch_samples, read_sample
from raypurify.pictures import strata_sheet
from raypurify.runtime.progress import shared_progress
from raypurify.storage import Place, overlapped
from raypurify.training.data import TRAIN

FOUND, FACTS, PICTURE, SHOWN = "strata.safetensors", "strata.json", "strata.png", "shown"
# Images of each stratum in the picture.
EXAMPLES = 10


def find_strata(
    folder: Place,
    latents: Place,
    prepared: Place,
    classes: list[str],
    source_rows: int,
    side: int,
    settings: StrataSettings,
    seed: int,
) -> dict[str, Any]:
    """Write ``strata.safetensors`` (the state of ``Strata``), the stratum of every row of the source as
    ``clusters.files`` has those of clusters, ``strata.json`` and the picture ``strata.png`` into ``folder``.

    Latents of more than ``settings.block_mb`` spread over the cluster block by block. What an interrupted stage found
    stays: only the picture is left to draw. Labels depend on the latents and the seed alone.

    Args:
        folder: of the stage.
        latents: the folder that ``extract_latents`` wrote.
        prepared: the folder that ``prepare`` wrote, images of 3 × ``side`` × ``side``.

    Returns:
        How many ``strata`` there are, images in the ``smallest``, ``sizes`` (K,), ``agreement`` of the vote among the
        kept features with that among all, and ``cluster_class``: strata are of no class.

    Raises:
        DataError: a latent is not finite, by its row, or there are too few, or all are equal.
    """
    import ray

    pieces = [
        piece
        for of_class in overlapped(pieces_of, [latents / PARTS / f"label={c}" for c in range(len(classes))])
        for piece in of_class
    ]
    images = sum(piece.rows for piece in pieces)
    with reading(folder / FACTS):
        facts = read_object(folder / FACTS)
        if facts is not None:
            facts = {name: facts[name] for name in ("sizes", "agreement", "near")}
    progress = shared_progress(folder, images, "images", start=images if facts else 0)
    if facts is None:
        task = ray.remote(_find).options(max_retries=RETRIES)
        # Not read back: a network file system may say for a while that there is no such file, as a moment ago.
        facts = ray.get(task.remote(folder, pieces, source_rows, settings, seed, progress))
        ray.get(progress.add.remote(images, "picture"))
    if (folder / PICTURE).kind != "file":
        _draw(folder, prepared, facts, source_rows, side)
    (folder / SHOWN).delete_folder()
    sizes = facts["sizes"]
    return {
        "strata": len(sizes),
        "smallest": min(sizes),
        "agreement": facts["agreement"],
        "sizes": sizes,
        "cluster_class": [None] * len(sizes),
    }


def load_strata(folder: Place, neighbours: int) -> Strata:
    """The strata that ``find_strata`` wrote, of whose features so many ``neighbours`` vote."""
    with reading(folder / FOUND):
        tensors = load((folder / FOUND).read())
        try:
            return Strata.from_state(tensors, neighbours)
        except BundleError as error:
            # Of a stage's file the remedy is more than that of a bundle.
            raise ValueError(str(error)) from error


def _find(
    folder: Place, pieces: list[Piece], source_rows: int, settings: StrataSettings, seed: int, progress: Any
) -> dict[str, Any]:
    latents = open_class(pieces, settings.block_mb << 20)
    each_block = telling_passes(latents.each_block, "strata", progress)
    found = fit_strata(each_block, settings, seed)
    near = nearest_examples(each_block, found.strata, EXAMPLES)
    stratum_of_row = np.full(source_rows, -1, np.int64)
    stratum_of_row[found.rows] = found.labels
    write_labels(folder, stratum_of_row)
    (folder / FOUND).write(save({name: part.contiguous() for name, part in found.strata.state().items()}))
    # The last: with it the strata are whole.
    sizes = np.bincount(found.labels, minlength=found.strata.count).tolist()
    facts = {"sizes": sizes, "agreement": found.agreement, "near": [rows.tolist() for rows in near]}
    write_json(folder / FACTS, facts)
    return facts


def _draw(folder: Place, prepared: Place, facts: dict[str, Any], source_rows: int, side: int) -> None:
    near = [np.array(rows, np.int64) for rows in facts["near"]]
    copies = fetch_samples(folder / SHOWN, (prepared / TRAIN).files(".parquet"), near, source_rows, lambda note: None)
    # A sample comes by its rows: back to nearest first.
    images = [read_sample(copies, k, side)[np.argsort(np.argsort(rows))] for k, rows in enumerate(near)]
    (folder / PICTURE).write(strata_sheet(facts["sizes"], images))
