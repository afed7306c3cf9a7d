"""Purification as one step of a pipeline of Ray Data: :class:`Purify`, which actors of ``map_batches`` make and call.

Ray itself is not needed here: a batch is a dictionary of arrays, a frame of pandas or a table of Arrow.

>>> import numpy as np
>>> done = Purify("cifar10")({"image": np.full((2, 32, 32, 3), 128, np.uint8), "label": np.array([4, 7])})
>>> done["image"].shape, done["label"].tolist(), done["iterations"].dtype, done["reason"].tolist()
((2, 32, 32, 3), [4, 7], dtype('int32'), ['', ''])
"""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

import raypurify
from raypurify.containers.image_column import is_image, likely
from raypurify.containers.ledger import ERRORS, FACTS, OPTIONAL
from raypurify.errors import ConfigError, DataError, ImageError
from raypurify.images import Decoded, check_encoding, close_array, decode_image, encode_image, open_array
from raypurify.methods import facts_for_all
from raypurify.purifiers.batch import MAX_PIXELS, Facts, purify_opened, purify_pixels

_ADDED = pa.schema([*FACTS, ERRORS.field("reason"), ERRORS.field("message")])
# What is said of an image that could not be purified: of the types of what is said of the others.
_NOTHING: Facts = {
    "cluster": -1,
    "class": None,
    "distance": math.nan,
    "flagged": False,
    "relative_change": math.nan,
    "iterations": 0,
    "mode": "",
    "width": 0,
    "height": 0,
    "region": [],
    "region_share": math.nan,
}
_WANTED = "images are uint8 arrays (H, W, 3), the bytes of image files, or structs with a field 'bytes'"


class Purify:
    """A callable for ``dataset.map_batches(Purify, fn_constructor_kwargs={"bundle": …}, batch_size=…, …)``.

    It takes images as Ray Data reads them, all of one size or of many, and gives them back in the same column
    (``into``: in another) and in the same kind: uint8 arrays (H, W, C) as such, of the same number of channels; bytes
    of an image file as bytes of a file of ``format`` and ``compression`` (``raypurify.images.encode_image``); structs
    {bytes, path, …} with such bytes in them. The column is ``column``, by default the one that a Parquet file's images
    would be taken from: ``image``, the one of a known name, or the only one. Batches in which columns have no value at
    all decide nothing for later ones, and where none has images, each row is one without an image.

    Added are the columns of a job's ``provenance.parquet`` (cluster, class, distance, flagged, relative_change,
    iterations, mode, width, height, bundle, region, region_share) and of its ``errors.parquet`` (reason, message), each
    after ``prefix``. Of a method that codes whole images, region is empty and region_share NaN.

    An image that cannot be purified stops nothing: its ``reason`` and ``message`` say why, which are empty for the
    others, and as in the output of a job the row stays without its image: no bytes, or an array of zeros, but never
    the image as it was. Its cluster is -1, of no class, its distance NaN.

    ``device`` is by default "cuda" where the actor sees a GPU. Batches are those of the formats "numpy", "pandas", and
    "pyarrow", the last with encoded images only. Raises BundleError for the bundle, ConfigError for one whose images
    are not for all, and for ``column`` or ``into`` of a name that is added, and DataError for batches without such a
    column or with columns of the added names: mistakes in the pipeline, not in an image.
    """

    def __init__(
        self,
        bundle: str | Path = "cifar10",
        *,
        column: str | None = None,
        into: str | None = None,
        prefix: str = "",
        device: str | None = None,
        format: str = "png",
        compression: str = "small",
        max_pixels: int = MAX_PIXELS,
    ):
        facts_for_all(bundle)
        check_encoding(format, compression)
        self.purifier = raypurify.load(bundle, device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if taken := {column, into} & {prefix + field.name for field in _ADDED}:
            raise ConfigError(
                f"{', '.join(map(repr, taken))}: a column of that name is added; choose a prefix or another column, "
                'fn_constructor_kwargs={"prefix": "purified_", …}'
            )
        self.column, self.into, self.prefix = column, into, prefix
        self.format, self.compression, self.max_pixels = format, compression, max_pixels
        self._told: dict[str, bool] = {}

    def __call__(self, batch: Any) -> Any:
        """The batch with purified images and what was done to each."""
        names = list(getattr(batch, "column_names", batch))
        self._check_names(names)
        column = self.column
        if column is None:
            # What earlier batches said of a column without values holds here, too.
            self._told |= {name: holds for name in names if (holds := _tells(batch[name])) is not None}
            column, sure = _find_column(batch, {name: self._told.get(name) for name in names})
            self.column = column if sure else None
        elif column not in names:
            raise DataError(f"the batch has no column {column!r}; its columns are {', '.join(names)}: name one")
        # Where no value says which column it is, each row is one without an image.
        values = [None] * len(batch[names[0]]) if column is None else _values(batch[column])
        if column is not None:
            _check_kind(batch[column], column, values)
        images, facts = self._purified(values)
        added = {
            self.prefix + field.name: pa.array([fact[field.name] for fact in facts], field.type) for field in _ADDED
        }
        return _with(batch, self.into or column, images, column, added)

    def _check_names(self, names: list[str]) -> None:
        new = [self.prefix + field.name for field in _ADDED] + ([self.into] if self.into else [])
        if taken := [name for name in new if name in names and not (name == self.into == self.column)]:
            raise DataError(
                f"the batch has columns of the names that are added, {', '.join(taken)}: choose a prefix or another "
                'column, fn_constructor_kwargs={"prefix": "purified_", …}'
            )

    def _purified(self, values: Sequence[Any]) -> tuple[list[Any], list[Facts]]:
        """The images of one batch, each in the kind that it came in, and what is said of each."""
        images: list[Any] = [None] * len(values)
        facts: list[Facts] = [{} for _ in values]
        opened = ((i, self._opened(value)) for i, value in enumerate(values))
        for key, result in purify_opened(partial(purify_pixels, self.purifier), opened):
            i = int(key)  # type: ignore[call-overload]  # as numbered above
            said: Facts = {"reason": "", "message": "", **{name: _NOTHING[name] for name in OPTIONAL}}
            if not isinstance(result, ImageError):
                try:
                    images[i] = self._closed(values[i], *result[:2])
                    said |= result[2]
                except ImageError as error:
                    result = error
            if isinstance(result, ImageError):
                images[i] = _without_image(values[i], _first(values))
                said |= {**_NOTHING, "reason": result.reason, "message": str(result)}
            facts[i] = said | {"bundle": self.purifier.digest}
        return images, facts

    def _opened(self, value: Any) -> Decoded | ImageError:
        try:
            if isinstance(value, np.ndarray):
                return open_array(value, max_pixels=self.max_pixels)
            data: Any = value.get("bytes") if isinstance(value, dict) else value
            return decode_image(bytes(data) if _is_file(data) else b"", max_pixels=self.max_pixels)
        except ImageError as error:
            return error

    def _closed(self, value: Any, pixels: np.ndarray, like: Decoded) -> Any:
        if isinstance(value, np.ndarray):
            return close_array(pixels, like).reshape(value.shape)
        data = encode_image(pixels, like, self.format, self.compression)
        return {**value, "bytes": data} if isinstance(value, dict) else data


def _without_image(value: Any, like: Any) -> Any:
    """What stands for an image that is not there, in the kind that it came in, or that ``like`` is of."""
    # Nulls would be other types than those of other batches, and beside arrays pickled objects.
    if isinstance(value, np.ndarray):
        return np.zeros(value.shape, np.uint8)
    if isinstance(value, dict):
        return {**value, "bytes": b""}
    if isinstance(like, np.ndarray):
        return np.zeros((0,) * 2 + like.shape[2:], np.uint8)
    return {**dict.fromkeys(like), "bytes": b""} if isinstance(like, dict) else b""


def _find_column(batch: Any, told: dict[str, bool | None]) -> tuple[str | None, bool]:
    """The column of the images, by its name and whether columns are ``told`` to hold images, and whether it is that in
    every batch. None where none has images here, and more than one may have in others.

    Raises DataError where there is no column of images, or more than one.
    """
    if "image" in told:
        return "image", True
    found = likely([name for name, holds in told.items() if holds])
    # Columns without any value may be those of the images in other batches.
    possible = likely([name for name, holds in told.items() if holds is not False])
    if len(possible) == 1:
        return possible[0], found == possible
    if possible and len(found) < 2:
        return (found[0] if found else None), False
    kinds = ", ".join(f"{name} ({_kind(_first(_values(batch[name])))})" for name in told)
    say = f'say which: {{"column": {found[0]!r}}}' if found else f"{_WANTED}: give such a column"
    raise DataError(f"{'more than one column' if found else 'no column'} of images among {kinds}; {say}")


def _tells(column: Any) -> bool | None:
    """Whether a column holds images, by its first value or else by its type; None where it has neither."""
    if (first := _first(_values(column))) is not None:
        return _is_image(first)
    if isinstance(column, pa.ChunkedArray):
        return None if pa.types.is_null(column.type) else is_image(column.type)
    # Of these types no value can be missing: there are no rows.
    if getattr(getattr(column, "dtype", None), "kind", "O") in "biu":
        return column.dtype == np.uint8 and column.ndim > 2
    return None


def _is_image(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype == np.uint8 and value.ndim in (2, 3)
    return _is_file(value) or (isinstance(value, dict) and "bytes" in value)


def _is_file(value: Any) -> bool:
    return isinstance(value, bytes | bytearray | memoryview)


def _kind(value: Any) -> str:
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__


def _first(values: Sequence[Any]) -> Any:
    """The first value that is not missing, None where all are."""
    return next((value for value in values if not _missing(value)), None)


def _missing(value: Any) -> bool:
    return value is None or type(value).__name__ == "NAType" or (isinstance(value, float) and math.isnan(value))


def _values(column: Any) -> list[Any]:
    return column.to_pylist() if isinstance(column, pa.ChunkedArray) else list(column)


def _check_kind(column: Any, name: str, values: list[Any]) -> None:
    """Raises DataError where a column holds no images of any kind, or of one that is not given back."""
    if isinstance(column, pa.ChunkedArray) and isinstance(column.type, pa.BaseExtensionType):
        raise DataError(f'column {name!r} holds arrays, as {column.type}: use batch_format="numpy" for them')
    if isinstance(column, pa.ChunkedArray) and pa.types.is_fixed_size_binary(column.type):
        raise DataError(f"column {name!r} is {column.type}, and files differ in size: cast it to binary")
    first = _first(values)
    if first is not None and not _is_image(first):
        raise DataError(f"column {name!r} holds values of the kind {_kind(first)}; {_WANTED}: convert it")


def _with(batch: Any, name: str | None, images: list[Any], like: str | None, added: dict[str, pa.Array]) -> Any:
    """The batch with ``images`` as the column ``name``, of the type of the column ``like``, and more columns."""
    if isinstance(batch, pa.Table):
        kind = pa.null() if like is None else batch.schema.field(like).type
        new = {} if name is None else {name: pa.array(images, None if pa.types.is_null(kind) else kind)}
        for key, column in {**new, **added}.items():
            at = batch.schema.get_field_index(key)
            batch = batch.append_column(key, column) if at < 0 else batch.set_column(at, key, column)
        return batch
    arrays = {key: column.to_numpy(zero_copy_only=False) for key, column in added.items()}
    if name is None:
        return {**batch, **arrays} if isinstance(batch, dict) else batch.assign(**arrays)
    if isinstance(batch, dict):
        held: Any = None if like is None else batch[like]
        whole = isinstance(held, np.ndarray) and held.dtype == np.uint8
        return {**batch, name: np.array(images, np.uint8).reshape(held.shape) if whole else _objects(images), **arrays}
    return batch.assign(**{name: _objects(images), **arrays})


def _objects(values: list[Any]) -> np.ndarray:
    # numpy would make one array of arrays of one size.
    array = np.empty(len(values), object)
    array[:] = values
    return array
