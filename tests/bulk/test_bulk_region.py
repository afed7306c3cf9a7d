"""What a job says of a bundle that codes a part of each image, and the picture it draws of it."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bad_images import encode
from PIL import Image
from small_bundles import write_region_sparse, write_rsfp

from raypurify.bulk.job import purify
from raypurify.client import _facts
from raypurify.containers.ledger import OPTIONAL, PROVENANCE, STATE, _read_part
from raypurify.pictures import Pair, contact_sheet
from raypurify.purifiers.localisation import object_boxes
from raypurify.ray import Purify
from raypurify.serve.http import provenance_headers
from raypurify.storage import resolve


def scene() -> np.ndarray:
    """A plain picture with a striped object."""
    pixels = np.full((40, 56, 3), 90, np.uint8)
    pixels[8:28, 16:36:4] = pixels[8:28, 17:36:4] = 220
    return pixels


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folder = tmp_path_factory.mktemp("region-job")
    bundle = write_region_sparse(folder / "bundle")
    (folder / "in").mkdir()
    for name, pixels in {"scene": scene(), "flat": np.full((20, 30, 3), 7, np.uint8)}.items():
        (folder / "in" / f"{name}.png").write_bytes(encode(pixels))
    purify([str(folder / "in")], str(folder / "out"), str(bundle), engine="local")
    return folder


def test_provenance_has_the_box_and_its_share_of_the_image(job):
    import torch

    rows = {row["id"]: row for row in pq.read_table(job / "out" / STATE / "provenance.parquet").to_pylist()}
    image = torch.from_numpy(scene()).permute(2, 0, 1)[None].float() / 255
    left, top, right, bottom = object_boxes(image, 9).boxes[0].tolist()
    assert rows["scene.png"]["region"] == [left, top, right, bottom]
    assert rows["scene.png"]["region_share"] == pytest.approx((right - left) * (bottom - top) / (40 * 56))
    assert (rows["flat.png"]["region"], rows["flat.png"]["region_share"]) == ([0, 0, 30, 20], 1.0)
    assert {row["cluster"] for row in rows.values()} == {0}
    assert (job / "out" / STATE / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_parts_of_before_there_were_such_columns_are_read_with_them_empty(tmp_path):
    row = dict.fromkeys(PROVENANCE.names)
    older = pa.schema([field for field in PROVENANCE if field.name not in OPTIONAL])
    pq.write_table(pa.Table.from_pylist([row], older), tmp_path / "part.parquet")
    read = _read_part(resolve(tmp_path / "part.parquet"), PROVENANCE)
    assert read.schema == PROVENANCE
    assert read.to_pylist() == [row]


def test_a_step_of_ray_data_has_the_columns_for_any_method(job, tmp_path):
    coded = Purify(job / "bundle")({"image": scene()[None]})
    assert 0 < float(coded["region_share"][0]) < 1
    assert len(coded["region"][0]) == 4
    whole = Purify(write_rsfp(tmp_path))({"image": scene()[None]})
    assert np.isnan(whole["region_share"]).all()
    assert len(whole["region"][0]) == 0


def test_the_box_goes_through_headers_as_numbers():
    headers = provenance_headers({"cluster": 0, "class": None, "region": [3, 0, 20, 9], "region_share": 0.25})
    assert headers["X-Raypurify-Region"] == "3,0,20,9"
    read = _facts({name.lower(): value for name, value in headers.items()})
    assert read == {"cluster": 0, "class": None, "region": [3, 0, 20, 9], "region_share": 0.25}


def test_the_contact_sheet_frames_what_was_coded():
    def sheet(box):
        pair = Pair("a", encode(scene()), encode(scene()), "c", np.ones((4, 3, 8, 8)), box)
        return np.asarray(Image.open(io.BytesIO(contact_sheet([pair]))).convert("RGB")).astype(int)

    plain, framed = sheet(None), sheet((16, 8, 36, 28))
    assert plain.shape == framed.shape
    rows, columns = np.nonzero((plain != framed).any(2))
    # In the first of four rows of pictures, and a frame, which leaves what is within as it is.
    assert rows.max() < plain.shape[0] / 4
    centre = (rows.min() + rows.max()) // 2, (columns.min() + columns.max()) // 2
    assert (plain[centre] == framed[centre]).all()
    assert abs((rows.max() - rows.min()) - (columns.max() - columns.min())) <= 4
