"""What a grid file may say, and how wrong ones are refused."""

import os
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from raypurify.attacks import PGD
from raypurify.containers.source import read_shard
from raypurify.errors import ConfigError, SourceError
from raypurify.evaluation.digests import purifier_digest
from raypurify.evaluation.grid import load_grid
from raypurify.evaluation.render import Section, slug, write_sections
from raypurify.evaluation.subjects import make_attack, make_purifier
from raypurify.storage import resolve

TREE = {
    "images": {"paths": "{data}/images"},
    "classifiers": {"net": {"kind": "bundle", "path": "cifar10"}},
    "attacks": {"clean": {"attack": "clean"}, "PGD": {"attack": "pgd", "eps": 0.03, "steps": 4}},
    "purifiers": {"none": {"purifier": "none"}, "ours": {"purifier": "rsfp", "bundle": "cifar10", "lmbda": 0.3}},
    "reference": "ours",
}


def changed(**parts) -> dict:
    return {**TREE, **parts}


def grouped(worst: str) -> dict:
    attacks = {"PGD": {"attack": "pgd", "eps": 0.03}, "MIM": {"attack": "mim", "eps": 0.03, "worst": worst}}
    return changed(images={"paths": "a"}, attacks=attacks)


def retraining(**training) -> dict:
    return {"paths": "b", "training": training}


def test_a_file_is_read_and_its_data_folder_filled_in(tmp_path):
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(TREE))
    grid = load_grid(tmp_path / "grid.yaml", data="/somewhere")
    assert grid.images.paths == ("/somewhere/images",)
    assert make_attack("PGD", grid.attacks["PGD"]) == PGD(eps=0.03, steps=4)
    assert make_attack("clean", grid.attacks["clean"]) is None
    assert make_purifier("ours", grid.purifiers["ours"]).settings.csc.lmbda == 0.3
    assert make_purifier("ours", grid.purifiers["ours"]).settings.csc.tikhonov > 0


def test_the_page_has_the_defaults_of_a_grid():
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text("utf-8")
    table = page.partition("| key | default | |")[2].partition("\n\n")[0]
    shown = re.findall(r"^\| (`.*?) \| (.*?) \|", table, re.M)
    assert len(shown) == 6
    for names, values in shown:
        for name, value in zip(names.split(", "), values.split(", "), strict=True):
            found = load_grid(TREE, "data")
            for part in name.strip("`").split("."):
                found = getattr(found, part)
            assert found == yaml.safe_load(value), name


def test_one_setting_can_be_changed_from_outside():
    grid = load_grid(TREE, data="a", overrides=("images.limit=7", "attacks.PGD.steps=2", "purifiers.ours.lmbda=0.1"))
    assert (grid.images.limit, make_attack("PGD", grid.attacks["PGD"]).steps) == (7, 2)
    assert make_purifier("ours", grid.purifiers["ours"]).settings.csc.lmbda == 0.1
    with pytest.raises(ConfigError, match="not of the form"):
        load_grid(TREE, data="a", overrides=("images",))


def test_settings_decide_a_purifiers_digest():
    spec = load_grid(changed(images={"paths": "a"})).purifiers["ours"]
    other = load_grid(changed(images={"paths": "a"}, purifiers={"ours": {"purifier": "rsfp", "lmbda": 0.2}})).purifiers
    assert purifier_digest(spec) != purifier_digest(other["ours"])
    assert purifier_digest(spec) == purifier_digest(spec.model_copy())


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (TREE, "say with --data which folder {data} is"),
        (changed(images={"paths": "a"}, classifiers={}), "classifiers"),
        (changed(images={"paths": "a"}, reference="other"), "reference 'other' is none of the purifiers none, ours"),
        (changed(images={"paths": "a"}, batch=0), "batch"),
        (changed(images={"paths": "a"}, colour=1), "colour: there is no such setting"),
        (changed(images={"paths": "a"}, papers=["x"]), "papers.0"),
        (changed(images={"paths": "a"}, retraining=retraining(epochs=0)), "usable: retraining.training.plain.epochs: "),
        (changed(images={"paths": "a"}, retraining=retraining(attack={"eps": 0})), "training.robust.attack.eps: "),
        (changed(images={"paths": "a"}, retraining={"paths": "b", "training": 3}), "training.plain: "),
        (changed(images={"paths": "a"}, attacks={"a/b": {"attack": "clean"}}), "'a/b' is no name"),
        (changed(images={"paths": "a"}, attacks={"a\nb": {"attack": "clean"}}), "'a\\nb' is no name; give one"),
        (changed(images={"paths": "a"}, attacks={"\ud800": {"attack": "clean"}}), "is no name; give one"),
        (changed(images={"paths": "a"}, attacks={"č" * 51: {"attack": "clean"}}), "is no name; give one of 100"),
        (changed(images={"paths": "a"}, attacks={"c": {"attack": "clean", "knows": "bpda"}}), "so it knows nothing"),
        (changed(images={"paths": "a"}, attacks={"c": {"attack": "pgd", "knows": "all"}}), "attacks.c.knows"),
        (
            changed(images={"paths": "a"}, attacks={"c": {"attack": "clean", "eps": 1}}),
            "changes nothing: leave out eps",
        ),
        (grouped(""), "attacks.MIM.worst: '' is no name; give one"),
        (changed(images={"paths": "a"}, scenarios={" ": "net"}), "scenarios: ' ' is no name; give one"),
        (grouped("PGD"), "attack 'MIM' is of the group 'PGD', which another column is called: rename the group"),
        (grouped("mean of attacks"), "'MIM' is of the group 'mean of attacks', which another column is called"),
        (
            changed(images={"paths": "a"}, attacks={"mean of attacks": {"attack": "clean"}}),
            "'mean of attacks' has the name of the mean over all: give it another",
        ),
    ],
)
def test_wrong_grids_are_refused_by_name(tree, message):
    with pytest.raises(ConfigError) as refused:
        load_grid(tree)
    assert message in str(refused.value)


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no-such"):
        load_grid(tmp_path / "no-such.yaml")
    (tmp_path / "list.yaml").write_text("[1]")
    with pytest.raises(ConfigError, match="must hold a mapping"):
        load_grid(tmp_path / "list.yaml")
    (tmp_path / "twice.yaml").write_text("attacks: {}\nattacks: {}")
    with pytest.raises(ConfigError, match=r"twice\.yaml .*'attacks' is given twice"):
        load_grid(tmp_path / "twice.yaml")
    (tmp_path / "itself.yaml").write_text("images: &a [*a]")
    with pytest.raises(ConfigError, match="more than 100000 values, or itself"):
        load_grid(tmp_path / "itself.yaml")
    lists = "".join(f"b{k}: &a{k + 1} [{', '.join([f'*a{k}'] * 10)}]\n" for k in range(9))
    (tmp_path / "grows.yaml").write_text(f"a: &a0 [1]\n{lists}")
    with pytest.raises(ConfigError, match=r"grows\.yaml .*aliases written out it holds more than 100000 values"):
        load_grid(tmp_path / "grows.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        load_grid(tmp_path / "bad.yaml")


def test_unknown_names_and_settings_are_refused_before_any_work():
    grid = load_grid(
        changed(
            images={"paths": "a"},
            attacks={
                "x": {"attack": "magic"},
                "y": {"attack": "pgd", "eps": 0.1, "speed": 3},
                "true": {"attack": "pgd", "eps": True},
                "huge": {"attack": "pgd", "eps": 10**400},
            },
            purifiers={
                "x": {"purifier": "magic"},
                "y": {"purifier": "jpeg", "speed": 3},
                "z": {"purifier": "rsfp", "lmbda": -1},
                "true": {"purifier": "jpeg", "quality": True},
            },
            reference=None,
        )
    )
    with pytest.raises(ConfigError, match=r"attack 'x': unknown 'magic'; use clean, fgsm"):
        make_attack("x", grid.attacks["x"])
    with pytest.raises(ConfigError, match=r"attack 'y': .*speed"):
        make_attack("y", grid.attacks["y"])
    with pytest.raises(ConfigError, match=r"purifier 'x': unknown 'magic'; use bundle, rsfp, none"):
        make_purifier("x", grid.purifiers["x"])
    with pytest.raises(ConfigError, match=r"purifier 'y': .*speed"):
        make_purifier("y", grid.purifiers["y"])
    with pytest.raises(ConfigError, match="attack 'true': eps: true is a truth value; give a number"):
        make_attack("true", grid.attacks["true"])
    with pytest.raises(ConfigError, match="attack 'huge': eps: a number of 401 digits; give 9223372036854775807"):
        make_attack("huge", grid.attacks["huge"])
    with pytest.raises(ConfigError, match="purifier 'true': quality: true is a truth value; give a number"):
        make_purifier("true", grid.purifiers["true"])
    with pytest.raises(ConfigError, match=r"purifier 'z': csc\.lmbda: Input should be [^\[]*; mend"):
        make_purifier("z", grid.purifiers["z"])


def test_images_and_those_of_a_retraining_are_opened_as_the_grid_says(tmp_path):
    (tmp_path / "cat").mkdir()
    pq.write_table(pa.table({"a": [b"x"], "b": [b"y"], "label": ["cat"]}), tmp_path / "t.parquet")
    (tmp_path / "cat/1.png").write_bytes(b"z")
    os.symlink("cat", tmp_path / "dog")
    paths = str(tmp_path)
    table = {"paths": paths, "kind": "parquet", "image_column": "b"}
    grid = load_grid(changed(images=table, retraining={"paths": paths, "kind": "images", "follow_links": True}))
    batches = grid.images.open()
    assert [row.data for row in read_shard(batches.shards[0])] == [b"y"]
    assert grid.retraining.open().classes == ("cat", "dog")
    with pytest.raises(SourceError, match="image_column='a' in Python and in a grid"):
        load_grid(changed(images={**table, "image_column": None})).images.open()
    with pytest.raises(ConfigError, match=r"images\.kind: Input should be 'images', 'parquet', 'tars' or 'arrays'"):
        load_grid(changed(images={**table, "kind": "tar"}))


def test_pictures_of_names_that_files_do_not_tell_apart_are_two(tmp_path):
    pictures = [(f"images-{slug(name)}.png", name.encode()) for name in ("a b", "a-b", "A/B")]
    write_sections(
        resolve(tmp_path), "t", [Section("one", pictures=(pictures[0],)), Section("two", (), None, (*pictures[1:],))]
    )
    found = re.findall(r"\]\((.*)\)", (tmp_path / "report.md").read_text())
    assert [(tmp_path / name).read_bytes() for name in found] == [b"a b", b"a-b", b"A/B"]
    assert found[0] == "images-a-b.png"
    assert len({name.lower() for name in found}) == 3
