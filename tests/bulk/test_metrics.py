"""What Prometheus can read of stages and jobs, and that the dashboard asks for nothing else."""

import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
from bad_images import encode

from raypurify.bulk.job import purify
from raypurify.errors import SourceError
from raypurify.fit.graph import asked_of
from raypurify.fit.graphs import GRAPHS
from raypurify.runtime.observed import actor_lost, observed
from raypurify.runtime.progress import Progress

REPOSITORY = Path(__file__).resolve().parents[2]
# Ray tells of a counter when it first counts.
NEVER = {"ray_raypurify_flagged_images_total"}


@pytest.fixture(scope="module")
def samples(small_run, small_settings, small_samples, tmp_path_factory):
    """All samples of stages and jobs, after a fit, a purification, a stage that failed and an actor that died in it."""
    folder = tmp_path_factory.mktemp("metrics")
    (folder / "in").mkdir()
    noise = np.random.default_rng(0)
    for k in range(4):
        (folder / "in" / f"{k}.png").write_bytes(encode(noise.integers(0, 255, (32, 32, 3), np.uint8)))
    (folder / "in" / "bad.png").write_bytes(b"no image")
    purify([str(folder / "in")], str(folder / "out"), "cifar10", sheet=0)
    progress = Progress(None, 4, "cells")

    def broken():
        with observed("broken", "evaluate", lambda: progress.state):
            progress.add(3)
            actor_lost(RuntimeError("it died"), "cell")
            raise SourceError("gone: give another path")

    with pytest.raises(SourceError):
        broken()
    stages = {stage.name for stage in asked_of(GRAPHS["rsfp"], small_settings)}
    wanted, until = {"calibrate", "purify", "evaluate"}, time.monotonic() + 60
    while time.monotonic() < until:
        found = [(name, dict(tags), value) for (name, tags), value in [*small_samples.items()] if "serve" not in name]
        ended = {tags["stage"] for name, tags, _ in found if name == "ray_raypurify_stage_seconds"}
        counted = {tags.get("stage") for name, tags, _ in found if name == "ray_raypurify_stage_work_total"}
        known = {tags["stage"] for name, tags, _ in found if name == "ray_raypurify_stage_done"}
        images = "ray_raypurify_images_total" in {name for name, *_ in found}
        if images and wanted <= counted and {*stages, *wanted} <= ended & known:
            return found, str(folder / "out"), str(small_run)
        time.sleep(1)
    pytest.fail(f"Ray exports {sorted({name for name, *_ in found})} alone, of {ended}")


def test_the_dashboard_asks_for_what_ray_exports(samples):
    found, *_ = samples
    board = json.loads((REPOSITORY / "deploy" / "grafana.json").read_text("utf-8"))
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    queries = [query for query in queries if "raypurify_serve" not in query]
    asked = {name for query in queries for name in re.findall(r"\bray_\w+", query)}
    exported: dict[str, set[str]] = {}
    for name, tags, _ in found:
        exported.setdefault(name, set()).update(tags)
    assert asked - exported.keys() <= NEVER
    # All that is exported is shown, and about one run, which the dashboard lets choose.
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in exported} <= {
        re.sub("_bucket$", "", name) for name in asked
    }
    assert all('{run=~"$run"' in query for query in queries)
    for query in queries:
        tags = {tag for group in re.findall(r"by \(([\w, ]+)\)", query) for tag in group.split(", ")}
        for name in set(re.findall(r"\bray_\w+", query)) - NEVER:
            assert tags <= exported[name], query


def test_every_stage_of_a_fit_tells_how_far_it_is(samples, small_settings):
    found, out, run = samples

    def of(name, **tags):
        return {
            (sample[1]["stage"], sample[1].get("measure")): sample[2]
            for sample in found
            if sample[0] == f"ray_raypurify_{name}" and tags.items() <= sample[1].items()
        }

    stages = {stage.name for stage in asked_of(GRAPHS["rsfp"], small_settings)}
    assert {stage for stage, _ in of("stage_seconds", run=run)} == stages
    done, total = of("stage_done", run=run), of("stage_total", run=run)
    assert done == total
    assert {stage for stage, _ in done} == stages
    values = of("stage_value", run=run)
    assert values["baseline", "epochs"] == 3
    assert 0 < values["baseline", "loss"] < 5
    assert 0 <= values["robust", "validation_accuracy"] <= 1
    assert values["clusters", "classes"] == 3
    assert values["dictionaries", "clusters"] >= 3
    assert of("stage_work_total", run=out, unit="images") == {("purify", None): 5.0}
    assert of("stage_failures_total", run="broken", error="SourceError") == {("evaluate", None): 1.0}
    assert of("lost_actors_total", run="broken") == {("evaluate", None): 1.0}
