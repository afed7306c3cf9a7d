"""Bundles on disk: what is refused, and with which words."""

import hashlib
import json
import re
import shutil
from importlib import resources
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

import raypurify
from raypurify.bundle import load_bundle, read_facts, shipped_bundles
from raypurify.bundle.manifest import MANIFEST, FileRecord, absolute
from raypurify.bundle.names import ENCODER, NETWORK
from raypurify.errors import BundleError
from raypurify.methods import METHODS, checked_facts
from raypurify.serve.settings import parse_settings

FILES = METHODS["rsfp"].files
PAGE = Path(__file__).parents[1] / "docs" / "bundles.md"


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(resources.files("raypurify.bundles") / "cifar10", tmp_path / "b")
    return tmp_path / "b"


def change_manifest(folder, **fields):
    path = folder / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def replace_file(folder, name, data):
    """Change a file and its record, as whoever makes a bundle by hand would."""
    (folder / name).write_bytes(data)
    files = json.loads((folder / MANIFEST).read_text())["files"]
    record = FileRecord(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
    change_manifest(folder, files=files | {name: record.model_dump()})


@pytest.mark.parametrize(
    ("name", "side", "first", "held_out"),
    [
        ("cifar10", 32, "airplane", 5000),
        ("cifar10-front-end", 32, "airplane", 5000),
        ("cifar10-region", 32, "airplane", 5000),
        ("cifar10-stl", 32, "airplane", 5000),
        ("imagenet10", 64, "tench", 400),
        ("imagenet10-region", 64, "tench", 400),
        ("imagenet10-stl", 32, "tench", 400),
    ],
)
def test_shipped_bundles_load_and_are_small_enough(name, side, first, held_out):
    purifier = raypurify.load(name)
    bundle = purifier.bundle
    assert sum(f.bytes for f in bundle.manifest.files.values()) <= 16e6
    assert bundle.settings.data.image_size == side
    assert bundle.manifest.classes[0] == first
    assert bundle.manifest.training_data["validation"] == held_out
    norms = purifier.dictionaries.flatten(2).norm(dim=2)
    torch.testing.assert_close(norms, torch.ones_like(norms))


def test_the_docs_have_every_shipped_bundle_its_method_and_its_size():
    rows = re.findall(r"^\| `([\w-]+)` \| `(\w+)` \|.*\| ([\d.]+) \|$", PAGE.read_text("utf-8"), re.MULTILINE)
    facts = {name: read_facts(name).manifest for name in shipped_bundles()}
    assert {name: (method, size) for name, method, size in rows} == {
        name: (of.method, f"{sum(f.bytes for f in of.files.values()) / 1e6:.1f}") for name, of in facts.items()
    }


@pytest.mark.parametrize("name", shipped_bundles())
def test_facts_read_without_tensors_are_those_of_the_tensors(name):
    facts, purifier = read_facts(name), raypurify.load(name)
    assert facts == purifier.bundle.facts
    for file in {NETWORK, ENCODER} & {*facts.shapes}:
        assert facts.parameters(file) == sum(p.numel() for p in purifier.network.parameters())
    assert facts.shape("dictionaries.safetensors", "atoms", "K, M, 3, h, w") == tuple(purifier.dictionaries.shape)


@pytest.mark.parametrize("name", ["cifar10", "imagenet10"])
def test_bundles_of_format_version_1_are_of_the_first_method(name):
    """The shipped ones of RSFP: whoever has their digest in a ledger or a grid finds them under it."""
    digests = {
        "cifar10": "2b2a6384a8fad7b11f1dfdd52018887296568cd2cbea008011bfffdb3dc7af4b",
        "imagenet10": "211a12d9d6a71a426a2a6eca66688072323709e701c57b4cd8212c75b4fc0f2e",
    }
    bundle = load_bundle(name)
    assert (bundle.manifest.format_version, bundle.manifest.method) == (1, "rsfp")
    assert bundle.digest == digests[name]


def test_a_file_that_is_listed_rightly_but_holds_no_tensors_is_named(copy):
    for data in (b"", b"\x02" + bytes(7) + b"[]", b"\xff" * 100):
        replace_file(copy, FILES[0], data)
        for read in (raypurify.load, checked_facts):
            with pytest.raises(BundleError, match=r"network\.safetensors is not a safetensors file"):
                read(copy)


def test_folder_path_and_uri_give_the_same_bundle(copy):
    assert load_bundle(copy).digest == load_bundle(str(copy)).digest == load_bundle(f"file://{copy}").digest
    assert load_bundle(copy).digest == load_bundle("cifar10").digest


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(BundleError, match=name):
        raypurify.load(copy)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b[:100], lambda b: b + b"x"])
def test_changed_file_is_named(copy, name, damage):
    path = copy / name
    path.write_bytes(damage(path.read_bytes()))
    for read in (load_bundle, read_facts, raypurify.load, checked_facts):
        with pytest.raises(BundleError, match=f"{name} does not have the digest"):
            read(copy)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format_version": 99}, "format version 99 is unknown"),
        ({"format_version": None}, "format version None is unknown"),
        ({"format_version": True}, "format version True is unknown"),
        ({"method": "magic"}, "is of the method 'magic', and this raypurify knows rsfp"),
        ({"method": "stl"}, "does not list encoder.safetensors"),
        ({"format_version": 2}, "method: Field required"),
        ({"files": {}}, "does not list network.safetensors"),
        ({"files": {"../network.safetensors": {"sha256": "", "bytes": 1}}}, "files"),
        ({"cluster_class": [None] * 30}, "of the method rsfp, every cluster has a class"),
        ({"cluster_class": [-1] * 30}, "names a class that does not exist"),
        ({"classes": 3}, "classes"),
        ({"surprise": 1}, "surprise"),
        ({"cluster_class": [0]}, "do not fit the manifest"),
        ({"classes": ["a", "b"]}, "do not fit the manifest"),
        ({"dictionary_source": ["0"]}, "1 entries in dictionary_source"),
        ({"calibration": {"distance_threshold": float("nan"), "quantile": 0.9, "images": 9}}, "distance_threshold"),
        *(
            ({"calibration": {"distance_threshold": 1, "quantile": 0.9, "images": 9, "quantiles": curve}}, "quantiles")
            for curve in ([1, 3, 2], [1], [1, float("nan")], [1, float("inf")], ["a", "b"], [0] * 1002)
        ),
    ],
)
def test_manifest_that_does_not_fit_is_refused(copy, fields, message):
    change_manifest(copy, **fields)
    for read in (raypurify.load, checked_facts):
        with pytest.raises(BundleError) as error:
            read(copy)
        assert message in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000])
def test_manifest_that_is_no_manifest_is_refused(copy, text):
    (copy / MANIFEST).write_text(text)
    with pytest.raises(BundleError):
        raypurify.load(copy)


def test_values_that_are_not_finite_are_refused(copy):
    name = "dictionaries.safetensors"
    tensors = load_file(copy / name)
    tensors["atoms"][0] = float("nan")
    replace_file(copy, name, save(tensors))
    with pytest.raises(BundleError, match="not finite"):
        raypurify.load(copy)


def test_a_folder_by_a_shipped_name_counts_where_it_is_a_bundle(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10/test.parquet").touch()
    assert read_facts("cifar10").manifest.name == absolute("cifar10") == "cifar10"
    assert parse_settings({"bundle": "cifar10", "no_auth": True}).bundle == "cifar10"
    shutil.rmtree("cifar10")
    shutil.copytree(resources.files("raypurify.bundles") / "cifar10-stl", "cifar10")
    assert read_facts("cifar10").manifest.name == "cifar10-stl"
    assert (
        parse_settings({"bundle": "cifar10", "no_auth": True}).bundle
        == absolute("cifar10")
        == str(tmp_path / "cifar10")
    )


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_what_opens_a_uri_is_in_no_message(scheme):
    with pytest.raises(BundleError, match=r"no bundle at 'https?://127") as error:
        raypurify.load(f"{scheme}://user:hidden@127.0.0.1:9/b?token=hidden")
    assert "hidden" not in str(error.value)


def test_no_bundle_at_all_names_the_shipped_ones(tmp_path):
    for where in ("cifar11", tmp_path / "nowhere", f"file://{tmp_path}/nowhere"):
        with pytest.raises(BundleError, match="shipped bundles are: cifar10"):
            raypurify.load(where)
