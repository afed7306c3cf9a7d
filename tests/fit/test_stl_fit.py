"""The whole fit of the method stl on a local Ray: what its stages leave, and that they are those of the latents."""

import json
import shutil

import numpy as np
import pytest
import torch

import raypurify
from raypurify.bundle import load_bundle
from raypurify.cli.texts import bundle_text, status_facts
from raypurify.clusters.files import load_labels
from raypurify.errors import DataError
from raypurify.fit.class_latents import pieces_of, read_latents
from raypurify.fit.graphs import stage_names
from raypurify.fit.run import fit
from raypurify.fit.strata import FACTS, FOUND, PICTURE, find_strata, load_strata
from raypurify.methods import checked_facts
from raypurify.runtime.stages import MARKER
from raypurify.storage import resolve
from raypurify.training.data import TRAIN, VALIDATION, read_part, read_pixels


def marker(run_dir, stage):
    return json.loads((run_dir / stage / MARKER).read_text())


@pytest.fixture(scope="module")
def latents(small_stl_run):
    """Rows (n,) ascending and latents (n, d) of all classes."""
    folder = resolve(small_stl_run / "latents" / "by_class")
    rows, found = zip(*(read_latents(pieces_of(folder / f"label={c}")) for c in range(3)))
    order = np.argsort(np.concatenate(rows))
    return np.concatenate(rows)[order], np.concatenate(found)[order]


def find(folder, run_dir, settings, block_mb=256):
    settings = settings.model_copy(update={"strata": settings.strata.model_copy(update={"block_mb": block_mb})})
    names = marker(run_dir, "prepare")["report"]["classes"]
    return find_strata(
        resolve(folder),
        resolve(run_dir / "latents"),
        resolve(run_dir / "prepare"),
        names,
        145,
        settings.data.image_size,
        settings.strata,
        settings.seed,
    )


def test_every_stage_completes_and_status_tells_them(small_stl_run):
    assert [marker(small_stl_run, stage)["state"] for stage in stage_names("stl")] == ["complete"] * 7
    facts = status_facts(str(small_stl_run))
    assert (facts["method"], facts["complete"]) == ("stl", True)
    assert [one["name"] for one in facts["stages"]] == list(stage_names("stl"))
    for picture in ("dae/curve.png", "strata/strata.png"):
        assert (small_stl_run / picture).read_bytes().startswith(b"\x89PNG")
    assert not (small_stl_run / "strata" / "shown").exists()


def test_the_auto_encoder_learned_to_rebuild_images(small_stl_run):
    lines = [json.loads(line) for line in (small_stl_run / "dae" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    assert lines[-1]["validation_psnr"] > lines[0]["validation_psnr"]


def test_strata_are_of_all_classes_and_of_every_training_image(small_stl_run, small_stl_settings, latents):
    of_row = load_labels(small_stl_run / "strata")
    rows, features = latents
    assert (np.flatnonzero(of_row >= 0) == rows).all()
    report = marker(small_stl_run, "strata")["report"]
    assert report["sizes"] == np.bincount(of_row[rows]).tolist()
    assert report["cluster_class"] == [None] * 3
    assert 0 <= report["agreement"] <= 1
    strata = load_strata(resolve(small_stl_run / "strata"), 3)
    nearest = strata.distances(torch.from_numpy(features)).argmin(1).numpy()
    assert (nearest == of_row[rows]).mean() > 0.98


def test_the_picture_shows_images_nearest_to_the_centroids(small_stl_run, latents):
    rows, features = latents
    near = json.loads((small_stl_run / "strata" / FACTS).read_text())["near"]
    distances = load_strata(resolve(small_stl_run / "strata"), 3).distances(torch.from_numpy(features)).numpy()
    for k, shown in enumerate(near):
        assert shown[0] == rows[np.where(distances.argmin(1) == k, distances[:, k], np.inf).argmin()]
        assert len(shown) == min(10, (distances.argmin(1) == k).sum())


def test_a_killed_stage_keeps_what_it_found_and_draws_what_is_left(small_stl_run, small_stl_settings, tmp_path):
    for name in (FACTS, FOUND, "cluster_of_row.npy"):
        shutil.copy(small_stl_run / "strata" / name, tmp_path / name)
    # Latents that are not there: they are not read again.
    (tmp_path / FOUND).write_bytes(b"kept")
    report = find(tmp_path, small_stl_run, small_stl_settings)
    assert report == marker(small_stl_run, "strata")["report"]
    assert (tmp_path / PICTURE).exists()
    assert (tmp_path / FOUND).read_bytes() == b"kept"
    # Without the last of its files it is done over.
    (tmp_path / FACTS).unlink()
    assert find(tmp_path, small_stl_run, small_stl_settings) == report
    assert (tmp_path / FOUND).read_bytes() == (small_stl_run / "strata" / FOUND).read_bytes()


def test_strata_of_spread_latents_are_the_same(small_stl_run, small_stl_settings, tmp_path):
    # So small that each row group is a block of its own.
    report = find(tmp_path, small_stl_run, small_stl_settings, block_mb=0)
    assert report["sizes"] == marker(small_stl_run, "strata")["report"]["sizes"]
    assert (load_labels(tmp_path) == load_labels(small_stl_run / "strata")).all()


def test_the_bundle_is_loadable_and_says_what_it_measured(small_stl_run, small_stl_settings):
    bundle = load_bundle(small_stl_run / "bundle")
    manifest, measured = bundle.manifest, bundle.manifest.measured
    assert (manifest.method, manifest.settings, manifest.cluster_class) == ("stl", small_stl_settings, [None] * 3)
    assert set(manifest.training) == {"dae", "strata"}
    assert measured["clean"]["images"] == marker(small_stl_run, "prepare")["report"]["validation"]
    assert measured["purified"]["images"] == 12
    assert 0 < measured["purified"]["relative_change"] < 1
    assert 10 < measured["purified"]["psnr"] < 60
    assert measured["clean"]["smallest_share"] <= 1 / 3 <= measured["clean"]["largest_share"]
    text = bundle_text(checked_facts(small_stl_run / "bundle"))
    assert all(part in text for part in ("stl", "psnr", "distance_mean"))
    assert "PGD" not in text


def test_the_flag_is_calibrated_on_the_distances_that_purify_gives(small_stl_run):
    purifier = raypurify.load(str(small_stl_run / "bundle"))
    held_out = torch.from_numpy(read_pixels(read_part(small_stl_run / "prepare", VALIDATION), 16).copy()).float() / 255
    out = purifier.purify(held_out)
    flag = purifier.bundle.manifest.calibration
    assert float(torch.quantile(out.distance, flag.quantile)) == pytest.approx(flag.distance_threshold, rel=1e-4)
    assert flag.images == len(held_out)
    assert len(flag.quantiles) == 101
    assert set(out.cluster.tolist()) <= {0, 1, 2}


def test_a_second_run_does_nothing_and_another_number_of_strata_redoes_what_follows(
    small_stl_run, small_set, small_stl_settings, tmp_path, capsys
):
    copy = tmp_path / "run"
    shutil.copytree(small_stl_run, copy)
    fit([str(small_set)], small_stl_settings, copy)
    assert capsys.readouterr().out.count("complete, skipped") == 7
    fewer = small_stl_settings.model_copy(
        update={"strata": small_stl_settings.strata.model_copy(update={"count": 2, "block_mb": 1})}
    )
    assert fit([str(small_set)], fewer, copy, until="strata").name == "strata"
    assert capsys.readouterr().out.count("complete, skipped") == 3
    assert marker(copy, "strata")["report"]["strata"] == 2


def test_samples_of_strata_are_of_the_source_size(small_stl_run):
    table = read_part(small_stl_run / "samples", TRAIN)
    assert read_pixels(table, 20).shape[1:] == (3, 20, 20)


def test_too_few_images_for_the_strata_are_told_before_the_auto_encoder_is_trained(
    small_stl_run, small_set, small_stl_settings, tmp_path
):
    copy = tmp_path / "run"
    shutil.copytree(small_stl_run, copy)
    strata = small_stl_settings.strata.model_copy(update={"neighbours": 500, "keep": 500})
    # Other settings of the auto-encoder too, or what it has learned would be there already.
    dae = small_stl_settings.dae.model_copy(update={"width": 5})
    with pytest.raises(DataError, match="120 training images are too few for 3 strata of which 500 neighbours"):
        fit([str(small_set)], small_stl_settings.model_copy(update={"strata": strata, "dae": dae}), copy)
    assert not (copy / "dae" / "metrics.jsonl").exists()
