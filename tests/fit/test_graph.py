"""The graphs of stages: what each depends on, before any work."""

import subprocess
import sys

import pytest

from raypurify.config import load_settings, presets
from raypurify.errors import ConfigError
from raypurify.fit.graph import asked_of, fingerprints
from raypurify.fit.graphs import GRAPHS, begun_stages, claim, stage_names
from raypurify.fit.run import fit
from raypurify.runtime.stages import MARKER
from raypurify.storage import resolve

# Of fits that were begun before stages were a graph, of a source with the digest "digest": those go on.
BEFORE = {
    "cifar10": {
        "prepare": "d07fff1f6567",
        "baseline": "8395b3f220e9",
        "latents": "4f4cec278bee",
        "clusters": "478e48acd1d2",
        "dictionaries": "072d70f1c71a",
        "robust_first": "bbeda1425ce6",
        "robust": "6b284674206c",
        "calibrate": "6ac6f7b5257d",
    },
    "tiny": {
        "prepare": "34d71a4b2b48",
        "baseline": "8f718fc99df1",
        "latents": "18fd8d0096e1",
        "clusters": "ebb1b200497c",
        "dictionaries": "0d49998791ba",
        "robust": "4e43e028caf0",
        "calibrate": "ae9eaa7f7bf6",
    },
    "paper": {
        "prepare": "d07fff1f6567",
        "baseline": "b4d747218c82",
        "latents": "396fc1a632e8",
        "clusters": "3791a1e2a1e2",
        "samples": "76015aed15e6",
        "dictionaries": "8b6e8ff0e3a5",
        "robust_first": "c3f70a43f411",
        "robust": "3f875129efb9",
        "calibrate": "6e11e93d7548",
    },
}
OPTIONAL = ("samples", "robust_first", "robust_latents", "robust_clusters")
# Of these settings the first gives dictionaries a size of their own, the others change no output.
PAPER = (
    "dictionaries.image_size=64",
    "dictionaries.actors=3",
    "clusters.block_mb=1",
    "baseline.checkpoint_steps=5",
)


@pytest.mark.parametrize("preset", BEFORE)
def test_fits_of_before_there_were_graphs_go_on(preset):
    settings = load_settings(preset, overrides=PAPER if preset == "paper" else ())
    marks = fingerprints(GRAPHS["rsfp"], settings, "digest")
    assert {name: mark[:12] for name, mark in marks.items()} == BEFORE[preset]


@pytest.mark.parametrize(
    ("overrides", "own"),
    [
        ((), False),
        (("robust.semantic=pcl",), True),
        (("robust.semantic=pcl", "clusters.latents=baseline"), False),
        (("robust.semantic=pcl", "clusters.latents=robust"), True),
        (("robust.semantic=none",), True),
        (("robust.alpha=0",), True),
        (("robust.alpha=0", "clusters.latents=baseline"), False),
        (("clusters.latents=robust",), True),
    ],
)
def test_distributions_are_of_the_latents_that_images_are_looked_for_in(overrides, own):
    """Those of a network that is not pulled to the clusters, by another loss or by a weight of 0, are its own."""
    marks, usual = (fingerprints(GRAPHS["rsfp"], load_settings("tiny", overrides=some), "") for some in (overrides, ()))
    assert ("robust_latents" in marks, "robust_clusters" in marks) == (own, own)
    calibrate = GRAPHS["rsfp"][-1]
    assert ("robust_clusters" if own else "clusters") in calibrate.inputs(marks)
    # Whose they are in the end says nothing of the clusters themselves.
    assert {marks[name] == usual[name] for name in ("latents", "clusters", "dictionaries")} == {True}


@pytest.mark.parametrize("method", GRAPHS)
def test_a_stage_takes_only_what_comes_before_it(method):
    there: list[str] = []
    for stage in GRAPHS[method]:
        assert {name for names in stage.takes for name in names.split("|")} <= set(there)
        there.append(stage.name)
    assert len(set(there)) == len(there)


@pytest.mark.parametrize("method", GRAPHS)
def test_a_changed_seed_changes_every_stage(method):
    settings = load_settings(next(name for name in presets(method) if name.startswith("tiny")))
    one = fingerprints(GRAPHS[method], settings, "digest")
    other = fingerprints(GRAPHS[method], settings.model_copy(update={"seed": 1}), "digest")
    assert list(one) == [stage.name for stage in asked_of(GRAPHS[method], settings)]
    assert not set(one.values()) & set(other.values())


def test_an_unknown_stage_is_refused_by_the_names_of_its_method(tmp_path):
    with pytest.raises(ConfigError, match="no stage samples; use one of prepare, baseline, latents, clusters, dict"):
        fit(["nowhere"], load_settings("tiny"), tmp_path, until="samples")


def test_a_run_directory_says_its_method_and_older_ones_are_of_rsfp(tmp_path):
    assert begun_stages(resolve(tmp_path)) == ("rsfp", ())
    (tmp_path / "prepare").mkdir()
    (tmp_path / "prepare" / MARKER).write_text("{}")
    others = [name for name in stage_names("rsfp") if name not in OPTIONAL]
    assert begun_stages(resolve(tmp_path)) == ("rsfp", tuple(others))
    claim(resolve(tmp_path), "rsfp")
    with pytest.raises(ConfigError, match="holds a fit of rsfp, not of stl: choose another run directory"):
        claim(resolve(tmp_path), "stl")
    (tmp_path / "fit.json").write_text('{"method": "another"}')
    assert begun_stages(resolve(tmp_path)) == ("another", ())


def test_graphs_are_known_without_torch_and_ray():
    code = "import sys, raypurify.fit.graphs; print([m for m in ('torch', 'ray') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
