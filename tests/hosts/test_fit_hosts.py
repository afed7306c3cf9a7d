"""A fit whose files lie in a store, over three hosts: undisturbed, with one cut off, and with its head started anew."""

import json
import time

import pytest
import yaml
from hosts import Cluster, Job, cluster_of
from safetensors.numpy import load

from raypurify.storage import resolve
from raypurify.training.record import read_lines

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
WEIGHTS = ("network.safetensors", "distributions.safetensors", "dictionaries.safetensors")


@pytest.fixture(scope="module")
def cluster(small_set):
    with cluster_of(3) as running:
        running.store.put_folder("images", small_set)
        yield running


@pytest.fixture(scope="module")
def begin(cluster, small_settings, tmp_path_factory):
    """Begins a fit into a folder of the store, with other settings of the baseline."""

    def begin_fit(run: str, script: str = "jobs/fit.py", **baseline: object) -> Job:
        settings = small_settings.model_dump(mode="json")
        settings["baseline"] |= baseline
        config = tmp_path_factory.mktemp("fit") / "settings.yaml"
        config.write_text(yaml.safe_dump(settings))
        given = ["--data", cluster.store.uri("images"), "--config", config, "--run-dir", cluster.store.uri(run)]
        return cluster.begin(script, *given)

    return begin_fit


@pytest.fixture(scope="module")
def whole(cluster, begin) -> dict[str, bytes]:
    """The weights of a fit that nothing disturbs, by file."""
    job = begin("whole")
    assert job.end(400)["exit"] == 0, job.said
    return bundle_of(cluster, "whole")


def bundle_of(cluster: Cluster, run: str) -> dict[str, bytes]:
    return {file: cluster.store.read(f"{run}/bundle/{file}") for file in WEIGHTS}


def wait_for(cluster: Cluster, job: Job, path: str, lines: int = 1) -> None:
    """Until the store has a file of so many lines, while the job goes on."""
    until = time.monotonic() + 200
    while True:
        found = cluster.store.objects(path.rpartition("/")[0]).get(path.rpartition("/")[2])
        if found and found[0].count(b"\n") >= lines:
            return
        assert job.process.poll() is None, job.said
        assert time.monotonic() < until, job.said
        time.sleep(0.2)


def epochs(cluster: Cluster, run: str) -> list[dict]:
    return [json.loads(line) for line in cluster.store.read(f"{run}/baseline/metrics.jsonl").splitlines()]


# A stage is at work when its state is there; training, when it has told of an epoch.
@pytest.mark.parametrize(
    ("stage", "sign", "lines"),
    [("baseline", "metrics.jsonl", 1), ("latents", "stage.json", 0), ("clusters", "stage.json", 0)],
    ids=["baseline", "latents", "clusters"],
)
def test_a_fit_that_loses_a_host_ends_in_the_same_bytes(cluster, begin, whole, stage, sign, lines):
    run = f"lost-{stage}"
    job = begin(run)
    wait_for(cluster, job, f"{run}/{stage}/{sign}", lines)
    with cluster.cut_off(cluster.workers[0]):
        said = job.end(400)
        assert cluster.workers[0].address not in cluster.alive()
    assert said["exit"] == 0, job.said
    assert bundle_of(cluster, run) == whole


def test_a_fit_on_two_hosts_is_that_on_one_machine(cluster, whole, small_run):
    made = epochs(cluster, "whole")
    assert [line["workers"] for line in made] == [2, 2, 2]  # a host has one CPU
    # Sums of a worker that has a machine to itself are those of more threads, and rounded otherwise.
    for line, local in zip(made, read_lines(resolve(small_run / "baseline")), strict=True):
        assert line["loss"] == pytest.approx(local["loss"], rel=1e-3)
    for file, data in whole.items():
        here = load((small_run / "bundle" / file).read_bytes())
        assert {name: value.shape for name, value in load(data).items()} == {n: v.shape for n, v in here.items()}


def test_a_training_that_loses_a_host_goes_on_with_one_worker(cluster, begin):
    # Two of three are cut off, so that one at least was at work and one is left.
    job = begin("cut", "jobs/train_baseline.py", epochs=12, workers=2, min_workers=1)
    wait_for(cluster, job, "cut/baseline/metrics.jsonl", 2)
    with cluster.cut_off(*cluster.workers[:2]):
        said = job.end(400)
    assert said["exit"] == 0, job.said
    made = epochs(cluster, "cut")
    assert [line["epoch"] for line in made] == list(range(made[0]["epoch"], made[0]["epoch"] + 12))
    assert (made[0]["workers"], made[-1]["workers"]) == (2, 1)


def test_a_job_whose_head_is_killed_goes_on_when_it_is_submitted_again(cluster, begin):
    job = begin("head")
    wait_for(cluster, job, "head/baseline/stage.json", 0)
    while json.loads(cluster.store.read("head/baseline/stage.json"))["state"] != "complete":
        assert job.process.poll() is None, job.said
        time.sleep(0.3)
    for host in (cluster.head, *cluster.workers):
        host.kill()
    before = {stage: cluster.store.objects(f"head/{stage}") for stage in ("prepare", "baseline")}
    # A store tells times to the second.
    time.sleep(1.1)
    cluster.start()
    again = begin("head")
    assert again.end(400)["exit"] == 0, again.said
    assert again.said.count("complete, skipped") >= 2
    assert {stage: cluster.store.objects(f"head/{stage}") for stage in before} == before
