"""The prepare stage: images of any source decoded, resized to the network's input, shuffled, split, as raw pixels."""

import logging
from typing import Any

import numpy as np
import pyarrow as pa

from raypurify.config import DataSettings
from raypurify.containers.source import Source, read_shard
from raypurify.errors import DataError, ImageError
from raypurify.images import decode_image, squared
from raypurify.runtime.events import log_event
from raypurify.runtime.progress import shared_progress
from raypurify.runtime.resources import cluster_resources
from raypurify.runtime.session import ray_data
from raypurify.storage import Place
from raypurify.training.data import FAILED, TRAIN, VALIDATION, read_part

BLOCK_BYTES = 64 << 20
GROUP_ROWS = 512
_LABELS = "a fit reads them from a column label (--label-column), or takes a folder with one sub-folder per class"


def prepare(
    folder: Place, source: Source, data: DataSettings, seed: int, only: np.ndarray | None = None
) -> dict[str, Any]:
    """Write ``folder/split=…/*.parquet`` with columns row, id, label, message, image (uint8, CHW).

    Which rows are held out and which are used under a limit is a seeded choice over the source's row numbers; of these
    none but ``only`` (row numbers), where they are given. Images that cannot be decoded are left out of both; their
    messages stand in ``split=failed``.

    Raises DataError when images have no label, a class has no training image, or there are fewer than two classes.
    """
    import ray

    if source.classes is None:
        raise DataError(f"no image has a label: {_LABELS}")
    for part in (TRAIN, VALIDATION, FAILED):
        (folder / part).delete_folder()
    chosen = choose_split(source.rows, data, seed)
    if only is not None:
        chosen[~np.isin(np.arange(source.rows), only)] = 0
    split = ray.put(chosen)
    progress = shared_progress(folder, source.rows, "images")
    size = 3 * data.image_size**2 * source.rows
    # A cluster whose nodes are still to come has no CPUs yet.
    blocks = min(len(source.shards), max(1, cluster_resources().cpus, size // BLOCK_BYTES))
    numbers = ray_data().from_items([{"shard": i} for i in range(len(source.shards))], override_num_blocks=blocks)
    rows = numbers.map_batches(
        _decode_shards,
        batch_size=1,
        fn_kwargs={"shards": ray.put(source.shards), "split": split, "side": data.image_size, "progress": progress},
    )
    # Small row groups: whoever wants some rows of a file need not read all before them.
    rows.random_shuffle(seed=seed).write_parquet(
        folder.path, filesystem=folder.remote, partition_cols=["split"], row_group_size=GROUP_ROWS
    )
    return _checked_report(folder, source, data)


def choose_split(rows: int, data: DataSettings, seed: int) -> np.ndarray:
    """What each row is for, (rows,) int8: 1 for training, 2 for validation, 0 for unused.

    >>> choose_split(10, DataSettings(validation=2, limit=3), seed=0).tolist().count(1)
    3

    Raises DataError when nothing is left to train on.
    """
    if rows <= data.validation:
        raise DataError(f"{rows} images are too few to hold out {data.validation}: lower data.validation or add images")
    order = np.random.default_rng(seed).permutation(rows)
    split = np.zeros(rows, np.int8)
    split[order[: data.validation]] = 2
    end = None if data.limit is None else data.validation + data.limit
    split[order[data.validation : end]] = 1
    return split


def _decode_shards(batch: dict[str, np.ndarray], shards: Any, split: Any, side: int, progress: Any) -> pa.Table:
    import ray

    shards, split = ray.get(shards), ray.get(split)
    columns: dict[str, list] = {name: [] for name in ("row", "id", "label", "image", "message", "split")}
    for index in batch["shard"]:
        shard = shards[int(index)]
        for row in read_shard(shard):
            if not split[row.row]:
                continue
            try:
                if row.error is not None:
                    raise row.error
                assert row.data is not None  # as there is no error
                pixels, message = squared(decode_image(row.data).pixels, side), None
                part = "train" if split[row.row] == 1 else "validation"
            except ImageError as e:
                pixels, message, part = np.zeros((3, side, side), np.uint8), f"{row.id}: {e}", "failed"
            columns["row"].append(row.row)
            columns["id"].append(row.id)
            columns["label"].append(-1 if row.label is None else row.label)
            columns["image"].append(pixels.tobytes())
            columns["message"].append(message)
            columns["split"].append(part)
        progress.add.remote(shard.rows)
    types = (pa.int64(), pa.string(), pa.int64(), pa.binary(3 * side * side), pa.string(), pa.string())
    return pa.table({k: pa.array(v, t) for (k, v), t in zip(columns.items(), types)})


def _checked_report(folder: Place, source: Source, data: DataSettings) -> dict[str, Any]:
    labels = {part: _column(folder / part, "label") for part in (TRAIN, VALIDATION)}
    failed = _column(folder / FAILED, "message")
    if failed:
        text = f"{len(failed)} images left out, the first: {failed[0]}"
        log_event("left_out", f"prepare: {text}", logging.WARNING, text=text)
    known = [label for part in labels.values() for label in part]
    if not known:
        raise DataError(f"none of the images could be read, the first: {failed[0] if failed else 'no image'}")
    if min(known) < 0:
        unlabelled = [name for part in labels for name in _unlabelled(folder / part, labels[part])]
        raise DataError(
            f"{len(unlabelled)} images without a label, {unlabelled[0]} first: leave them out, or give them one; "
            f"{_LABELS}"
        )
    classes = list(source.classes or ())
    if max(known) >= len(classes):
        raise DataError(f"label {max(known)} is out of range: the source names {len(classes)} classes")
    counts = np.bincount(labels[TRAIN], minlength=len(classes))
    if len(classes) < 2:
        raise DataError(f"all images are of one class ({classes[0]}): a classifier needs at least two")
    if (counts == 0).any():
        index = int(counts.argmin())
        elsewhere = labels[VALIDATION].count(index), _column(folder / FAILED, "label").count(index)
        raise DataError(f"class {classes[index]!r} has no training image{_why_none(*elsewhere, len(classes), data)}")
    return {
        "train": len(labels[TRAIN]),
        "validation": len(labels[VALIDATION]),
        "failed": len(failed),
        "classes": classes,
        "per_class": counts.tolist(),
    }


def _unlabelled(folder: Place, labels: list[int]) -> list[str]:
    return [name for name, label in zip(_column(folder, "id"), labels) if label < 0]


def _why_none(held_out: int, failed: int, classes: int, data: DataSettings) -> str:
    """Why a class has no training image, and what mends it."""
    if held_out or failed:
        gone = f"{held_out} are held out and {failed} could not be read"
        return f", as {gone}: add images, or lower data.validation"
    if data.limit:
        return f" among the {data.limit} that data.limit leaves: raise it, or add images"
    return f", and labels go up to {classes - 1}: number classes from 0 without a gap, or give names as labels"


def _column(folder: Place, name: str) -> list:
    if folder.kind != "folder":
        return []
    return read_part(folder.parent, folder.name, ["row", name]).column(name).to_pylist()
