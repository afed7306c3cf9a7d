"""The whole fit on a local Ray: what every stage leaves, and that nothing complete is done again."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from bad_images import encode, pixels
from PIL import Image

import raypurify
from raypurify.bundle import load_bundle, read_facts
from raypurify.cli.texts import status_facts
from raypurify.clusters import ClusterDistributions
from raypurify.clusters.files import load_clusters
from raypurify.config import DataSettings, Settings
from raypurify.containers.source import open_source
from raypurify.errors import DataError, SinkError
from raypurify.fit.clustering import cluster
from raypurify.fit.graphs import stage_names
from raypurify.fit.prepare import choose_split, prepare
from raypurify.fit.rsfp import start_digest
from raypurify.fit.run import fit
from raypurify.fit.train import NETWORK
from raypurify.methods import METHODS
from raypurify.nets.store import load_network
from raypurify.runtime.stages import MARKER, open_run, run_stage
from raypurify.storage import resolve
from raypurify.training.data import TRAIN, VALIDATION, read_part, read_pixels

# Of a network that is not pulled to the clusters.
UNPULLED = ("robust_latents", "robust_clusters")
STAGES = tuple(name for name in stage_names("rsfp") if name not in UNPULLED)


def marker(run_dir: Path, stage: str) -> dict:
    return json.loads((run_dir / stage / MARKER).read_text())


def test_every_stage_completes_with_a_report(small_run):
    assert [marker(small_run, stage)["state"] for stage in STAGES] == ["complete"] * len(STAGES)
    report = marker(small_run, "prepare")["report"]
    assert report["classes"] == ["across", "down", "slanted"]
    # 145 files, 24 held out; the broken one is counted where the split put it.
    assert report["train"] + report["validation"] + report["failed"] == 145
    assert report["failed"] == 1


def test_splits_are_disjoint_and_keep_the_pixels(small_run, small_set):
    train, held_out = (read_part(small_run / "prepare", part) for part in (TRAIN, VALIDATION))
    assert not set(train["row"].to_pylist()) & set(held_out["row"].to_pylist())
    assert read_pixels(train, 16).std() > 10
    labels = train["label"].to_numpy()
    names = sorted(str(p.relative_to(small_set)) for p in small_set.rglob("*.png"))
    classes = ["across", "down", "slanted"]
    assert all(names[row].startswith(classes[label]) for row, label in zip(train["row"].to_pylist(), labels))


def test_baseline_learned_the_classes(small_run):
    lines = [json.loads(line) for line in (small_run / "baseline" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1, 2]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert lines[-1]["validation_accuracy"] > 0.5


def test_the_robust_network_starts_from_the_first_one(small_run):
    """One epoch at a small rate leaves it nearer to where it began than to the baseline."""
    first, last, baseline = (
        torch.cat([p.flatten() for p in load_network(small_run / name / NETWORK).parameters()])
        for name in ("robust_first", "robust", "baseline")
    )
    assert 0 < (last - first).norm() < (last - baseline).norm()
    assert set(marker(small_run, "robust")["report"]) == set(marker(small_run, "robust_first")["report"])
    assert "robust_first" in load_bundle(small_run / "bundle").manifest.training


def test_status_shows_a_first_robust_training_where_there_is_one(small_run, tmp_path):
    assert [one["name"] for one in status_facts(str(small_run))["stages"]] == list(STAGES)
    shutil.copytree(small_run / "clusters", tmp_path / "clusters")
    others = [name for name in STAGES if name not in ("samples", "robust_first")]
    assert [one["name"] for one in status_facts(str(tmp_path))["stages"]] == others


def test_every_training_image_has_a_cluster_of_its_own_class(small_run):
    facts = json.loads((small_run / "clusters" / "clusters.json").read_text())
    of_row = np.load(small_run / "clusters" / "cluster_of_row.npy")
    train = read_part(small_run / "prepare", TRAIN, ["row", "label"])
    rows, labels = train["row"].to_numpy(), train["label"].to_numpy()
    assert (np.array(facts["cluster_class"])[of_row[rows]] == labels).all()
    assert sum(facts["sizes"]) == len(rows)
    assert (of_row >= 0).sum() == len(rows)


def test_pictures_are_drawn(small_run):
    for picture in ("baseline/curve.png", "robust/curve.png", "clusters/elbow.png"):
        assert (small_run / picture).read_bytes().startswith(b"\x89PNG")


def test_bundle_is_loadable_and_says_what_it_measured(small_run):
    bundle = load_bundle(small_run / "bundle")
    clusters = len(raypurify.load(small_run / "bundle").dictionaries)
    measured = bundle.manifest.measured
    assert measured["clean"]["images"] == marker(small_run, "prepare")["report"]["validation"]
    assert measured["attacked"]["images"] == 12
    assert 0 < bundle.manifest.calibration.distance_threshold < 1e3
    assert len(bundle.manifest.dictionary_source) == len(bundle.manifest.cluster_class) == clusters


def test_dictionaries_are_learned_from_images_of_the_size_that_they_are_for(small_run, small_set, small_settings):
    # Images of the set are 20², the network sees 16².
    found, seen = (read_part(small_run / stage, TRAIN) for stage in ("samples", "prepare"))
    for row in found.to_pylist():
        with Image.open(small_set / row["id"]) as image:
            stored = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
        assert row["image"] == stored.tobytes()
    clusters = marker(small_run, "clusters")["report"]["clusters"]
    assert set(found["row"].to_pylist()) <= set(seen["row"].to_pylist())
    assert clusters <= len(found) <= clusters * small_settings.dictionaries.images
    assert len(found) < len(seen)


def test_who_says_no_size_for_dictionaries_writes_none():
    dictionaries = Settings().dictionaries
    assert "image_size" not in dictionaries.model_dump()
    assert "image_size" not in Settings().model_dump_json().partition('"dictionaries"')[2].partition("}")[0]
    sized = dictionaries.model_copy(update={"image_size": 64})
    assert type(sized).model_validate(sized.model_dump()) == sized


def test_a_second_run_does_nothing(small_run, small_set, small_settings, capsys):
    before = {stage: (small_run / stage / MARKER).stat().st_mtime_ns for stage in STAGES}
    fit([str(small_set)], small_settings, small_run)
    assert capsys.readouterr().out.count("complete, skipped") == len(STAGES)
    assert before == {stage: (small_run / stage / MARKER).stat().st_mtime_ns for stage in STAGES}


def test_a_changed_setting_redoes_its_stage_and_what_follows_only(
    small_run, small_set, small_settings, tmp_path, capsys
):
    copy = tmp_path / "run"
    shutil.copytree(small_run, copy)
    changed = small_settings.model_copy(
        update={"calibration": small_settings.calibration.model_copy(update={"quantile": 0.5})}
    )
    fit([str(small_set)], changed, copy)
    assert capsys.readouterr().out.count("complete, skipped") == len(STAGES) - 1
    assert (
        load_bundle(copy / "bundle").manifest.calibration.distance_threshold
        < load_bundle(small_run / "bundle").manifest.calibration.distance_threshold
    )


def test_a_network_that_is_not_pulled_is_asked_in_its_own_latents(
    small_run, small_set, small_settings, tmp_path, capsys
):
    """The images of a cluster stay, and with them dictionaries and all that came before."""
    copy = tmp_path / "run"
    shutil.copytree(small_run, copy)
    robust = small_settings.robust.model_copy(update={"semantic": "pcl", "alpha": 0.01})
    fit([str(small_set)], small_settings.model_copy(update={"robust": robust}), copy)
    told = capsys.readouterr().out
    assert all(f"{stage}: complete, skipped" in told for stage in ("clusters", "dictionaries", "robust_first"))
    assert [marker(copy, stage)["state"] for stage in UNPULLED] == ["complete"] * 2
    purifier, table = raypurify.load(copy / "bundle"), read_part(copy / "prepare", TRAIN)
    rows, images = table["row"].to_numpy(), torch.from_numpy(read_pixels(table, 16).copy()).float() / 255
    with torch.no_grad():
        latents = load_network(copy / "robust" / NETWORK).latents(images).numpy()
    labels = np.load(copy / "clusters" / "cluster_of_row.npy")[rows]
    expected = ClusterDistributions.fit(latents, labels)
    torch.testing.assert_close(purifier.distributions.means, expected.means, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(expected.means, load_clusters(copy / "clusters")[0].means, rtol=1e-2, atol=1e-2)
    assert purifier.bundle.manifest.cluster_class == marker(copy, "clusters")["report"]["cluster_class"]
    assert "own latents" in METHODS["rsfp"].lines(read_facts(copy / "bundle"))["clusters"]


def test_clusters_are_the_same_again(small_run, small_settings, tmp_path):
    total = len(np.load(small_run / "clusters" / "cluster_of_row.npy"))
    classes = ["across", "down", "slanted"]
    cluster(
        resolve(tmp_path), resolve(small_run / "latents"), classes, total, small_settings.clusters, small_settings.seed
    )
    for name in ("cluster_of_row.npy", "distributions.safetensors"):
        assert (tmp_path / name).read_bytes() == (small_run / "clusters" / name).read_bytes()


def test_interrupted_stage_finds_its_files_a_changed_one_does_not(tmp_path):
    def body(folder):
        left = (folder / "part").kind == "file"
        (folder / "part").write(b"x")
        if not left:
            raise KeyboardInterrupt
        return {"resumed": left}

    for _ in range(2):
        try:
            done = run_stage(resolve(tmp_path), "s", {"a": 1}, ("in",), body)
        except KeyboardInterrupt:
            assert marker(tmp_path, "s")["state"] == "running"
    assert done.report == {"resumed": True}
    with pytest.raises(KeyboardInterrupt):
        run_stage(resolve(tmp_path), "s", {"a": 2}, ("in",), body)


def test_a_stage_that_cannot_be_looked_at_keeps_its_files(tmp_path):
    run_stage(resolve(tmp_path), "s", {"a": 1}, ("in",), lambda folder: (folder / "part").write(b"x") or {})
    (tmp_path / "s" / MARKER).unlink()
    (tmp_path / "s" / MARKER).mkdir()
    with pytest.raises(SinkError, match="run the same command again"):
        run_stage(resolve(tmp_path), "s", {"a": 1}, ("in",), lambda folder: {})
    assert (tmp_path / "s" / "part").read_bytes() == b"x"


def test_what_a_store_refuses_in_the_middle_is_one_line(tmp_path):
    with pytest.raises(SinkError, match="gone for a while; mend that"), open_run(tmp_path):
        raise ConnectionError("gone for a while")


def test_split_is_seeded_and_sized():
    split = choose_split(100, DataSettings(validation=10, limit=50), seed=1)
    assert [(split == kind).sum() for kind in (0, 1, 2)] == [40, 50, 10]
    assert (split == choose_split(100, DataSettings(validation=10, limit=50), seed=1)).all()
    assert (split != choose_split(100, DataSettings(validation=10, limit=50), seed=2)).any()
    with pytest.raises(DataError, match="too few"):
        choose_split(10, DataSettings(validation=10), seed=0)


def test_a_second_fit_on_the_run_directory_is_refused(tmp_path):
    with open_run(tmp_path), pytest.raises(SinkError, match="another job"), open_run(tmp_path):
        pass


def test_unwritable_run_directory_is_named(tmp_path, small_set, small_settings):
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match="cannot be written"):
        fit([str(small_set)], small_settings, tmp_path / "file" / "run")


def test_one_class_is_refused_by_name(local_ray, small_set, small_settings, tmp_path):
    one = tmp_path / "images"
    shutil.copytree(small_set / "across", one / "across")
    with pytest.raises(DataError, match="all images are of one class \\(across\\)"):
        fit([str(one)], small_settings, tmp_path / "run")


def test_images_without_labels_are_refused(local_ray, small_set, small_settings, tmp_path):
    assert open_source(str(small_set / "across")).classes is None
    with pytest.raises(DataError, match="no image has a label: a fit reads them from a column label"):
        fit([str(small_set / "across")], small_settings, tmp_path / "run")


@pytest.mark.parametrize(
    ("labels", "changed", "message"),
    [
        ([3, 9] * 6, {}, "class '0' has no training image, and labels go up to 9: number classes from 0 without a gap"),
        ([0, 1] * 5 + [0, None], {}, "1 images without a label, a-11 first: leave them out, or give them one"),
        ([0] * 11 + [1], {"validation": 11}, "has no training image, as 1[01]? are held out and 0 could not be read"),
        ([0] * 11 + [1], {"limit": 1}, "class '.' has no training image among the 1 that data.limit leaves"),
    ],
)
def test_labels_that_are_no_classes_are_refused_with_what_mends_them(local_ray, tmp_path, labels, changed, message):
    image = encode(pixels())
    ids = [f"a-{i}" for i in range(len(labels))]
    table = pa.table({"image": pa.array([image] * len(labels), pa.binary()), "label": pa.array(labels), "id": ids})
    pq.write_table(table, tmp_path / "in.parquet")
    data = DataSettings(image_size=8, **{"validation": 1, **changed})
    with pytest.raises(DataError, match=message):
        prepare(resolve(tmp_path / "out"), open_source(tmp_path / "in.parquet"), data, seed=0)


def test_latents_have_one_row_per_training_image(small_run):
    folder = small_run / "latents" / "by_class"
    rows = pq.read_table(folder, partitioning=None)["row"].to_pylist()
    assert sorted(rows) == read_part(small_run / "prepare", TRAIN, ["row"])["row"].to_pylist()


def test_another_network_to_start_from_makes_another_stage(tmp_path):
    path = tmp_path / "network.safetensors"
    assert start_digest("baseline") == start_digest(str(path)) == {}
    path.write_bytes(b"one")
    one = start_digest(str(path))
    path.write_bytes(b"two")
    assert one != start_digest(str(path)) != {}
