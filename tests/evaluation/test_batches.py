"""The images of a grid are those that a fit would see of the same files."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from raypurify.config import DataSettings
from raypurify.evaluation.batches import read_grid_batches
from raypurify.evaluation.specs import ImagesSpec
from raypurify.fit.prepare import prepare
from raypurify.storage import resolve
from raypurify.training.data import TRAIN, VALIDATION, read_part, read_pixels


def test_a_grid_and_a_fit_squash_an_image_to_the_same_pixels(tmp_path, local_ray):
    rng, files = np.random.default_rng(0), []
    for shape in ((20, 50), (64, 64), (16, 16), (9, 30), (40, 12), (31, 31)):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (*shape, 3), np.uint8)).save(buffer, "PNG")
        files.append(buffer.getvalue())
    pq.write_table(pa.table({"image": files, "label": [0, 1] * 3}), tmp_path / "images.parquet")
    spec = ImagesSpec(paths=str(tmp_path / "images.parquet"), size=16)
    (batch,), _ = read_grid_batches(spec, 6)
    folder = resolve(tmp_path / "prepared")
    prepare(folder, spec.open(), DataSettings(image_size=16, validation=1), seed=0)
    for part in (TRAIN, VALIDATION):
        table = read_part(folder, part)
        assert (read_pixels(table, 16) == batch.pixels[table["row"].to_numpy()]).all()
