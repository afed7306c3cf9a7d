"""What was found in a file is kept as an Arrow file: everything comes back, and damage is told."""

import hashlib

import pytest
from test_container_contract import CASES, IMAGES

from raypurify.containers.look import Asked, Look, looks_from_bytes, looks_to_bytes
from raypurify.containers.registry import CONTAINERS
from raypurify.containers.source import open_source
from raypurify.errors import SourceError
from raypurify.storage import Place


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if CONTAINERS[case.kind].look])
def test_looks_come_back_from_their_file(name, tmp_path):
    case = CASES[name]
    case.build(tmp_path / "in", list(case.images))
    place, look = Place(str(tmp_path / "in")), CONTAINERS[case.kind].look
    looks = {file: (stamp, look(place / file, Asked())) for file, stamp in place.walk()}
    # A name that is not UTF-8, and a look without what the others have.
    looks["caf\udce9"] = (1, 2), Look((3, 4), "d", 0, {"links": 1}, {"a": [["é", None]]})
    assert looks_from_bytes(looks_to_bytes(looks, "m"), "m") == looks


def test_a_damaged_file_of_looks_is_told_at_every_byte():
    whole = looks_to_bytes({"a.tar": ((1, 2), Look((1, 2), "d", 3))}, "m")
    cut = [whole[:end] for end in range(len(whole))]
    flipped = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(len(whole))]
    for data in cut + flipped:
        with pytest.raises(SourceError, match="damaged"):
            looks_from_bytes(data, "m")
    with pytest.raises(SourceError, match="another way"):
        looks_from_bytes(whole, "n")


def test_the_digest_of_tables_is_that_of_their_footers(tmp_path):
    """Jobs that were begun before there were looks go on."""
    CASES["parquet"].build(tmp_path / "in", IMAGES)
    whole = hashlib.sha256()
    for path in sorted((tmp_path / "in").iterdir()):
        data = path.read_bytes()
        footer = data[-8 - int.from_bytes(data[-8:-4], "little") : -8]
        whole.update(f"{path.name}\0{len(data)}:{hashlib.sha256(footer).hexdigest()}\n".encode())
    assert open_source(tmp_path / "in").digest == whole.hexdigest()
