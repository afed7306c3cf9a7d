"""The job scripts under ``ray job submit``, on a Ray head of its own with a dashboard and a token."""

import contextlib
import io
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from free_ports import free_port

REPOSITORY = Path(__file__).resolve().parents[2]
RAY = [sys.executable, "-m", "ray.scripts.scripts"]


@pytest.fixture(scope="module")
def head(tmp_path_factory, store):
    """A Ray head without CPUs, with token authentication, and two nodes that do the work."""
    # What other tests of this process have set for their Ray, such as to log nothing, is not meant for this one.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    port, dashboard = free_port(), free_port()
    log = (tmp_path_factory.mktemp("head") / "log").open("w")
    command = [*RAY, "start", "--head", "--block", f"--port={port}", "--num-cpus=0", "--disable-usage-stats"]
    # Several raylets that hand out the same range of ports start workers that find theirs taken.
    ports = ["--min-worker-port=0", "--max-worker-port=0"]
    command += [*ports, "--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
    # Another Ray on this machine, as other tests have, holds the default port of the agent that starts jobs.
    command += [f"--dashboard-agent-listen-port={free_port()}"]
    # A node unpacks the working directory of a job anew, so each needs a place of its own, with a short path.
    folders = [tempfile.mkdtemp(prefix="ray-") for _ in range(3)]
    command += [f"--temp-dir={folders[0]}"]
    output = {"env": environment, "stdout": log, "stderr": log, "start_new_session": True}
    processes: list[subprocess.Popen] = []
    address = f"http://127.0.0.1:{dashboard}"
    request = urllib.request.Request(
        f"{address}/api/jobs/", headers={"Authorization": f"Bearer {environment['RAY_AUTH_TOKEN']}"}
    )

    def started() -> bool:
        """Whether a new head runs. Ray itself ends one that takes longer than 30 s to start, as on a busy machine."""
        processes[:] = [subprocess.Popen(command, **output)]
        for _ in range(240):
            if processes[0].poll() is not None:
                return False
            with contextlib.suppress(OSError):
                urllib.request.urlopen(request, timeout=2)
                if "Ray runtime started" in Path(log.name).read_text():
                    return True
            time.sleep(0.5)
        return False

    try:
        for _ in range(3):
            if started():
                break
            subprocess.run(["pkill", "-KILL", "-s", str(processes[0].pid)], check=False)
            processes[0].wait(60)
        else:
            pytest.fail(f"no head starts: {Path(log.name).read_text()}")
        for folder in folders[1:]:
            node = [*RAY, "start", "--block", f"--address=127.0.0.1:{port}", "--num-cpus=2", "--disable-usage-stats"]
            node += [*ports, f"--dashboard-agent-listen-port={free_port()}", f"--temp-dir={folder}"]
            processes.append(subprocess.Popen(node, **output))
        yield address, environment
    finally:
        # A Ray that is asked to end takes half a minute.
        for process in reversed(processes):
            subprocess.run(["pkill", "-KILL", "-s", str(process.pid)], check=False)
        for process in processes:
            process.wait(60)
        # Why an actor died is in the logs of its node alone.
        logs = Path(log.name).parent
        for folder in folders:
            for kept in Path(folder).glob("session_2*/logs"):
                shutil.copytree(kept, logs / Path(folder).name, ignore_dangling_symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(folder, ignore_errors=True)


def submit(head, *arguments: object) -> subprocess.CompletedProcess:
    address, environment = head
    command = [
        *RAY,
        "job",
        "submit",
        "--address",
        address,
        "--working-dir",
        ".",
        "--",
        sys.executable,
        *map(str, arguments),
    ]
    for _ in range(20):
        run = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=280)
        # A head answers before its job agent does.
        if "No available agent" not in run.stderr:
            return run
        time.sleep(3)
    raise AssertionError(run.stderr)


def last_line(run: subprocess.CompletedProcess) -> dict:
    """What a job says of itself; below it stand lines of Ray's own, after a failure those of the job once more."""
    lines = [line for line in run.stdout.splitlines() if line.startswith('{"command"')]
    assert lines, run.stdout + run.stderr
    return json.loads(lines[-1])


# For the short form most stages are there, as a fit on one machine left them, and one job does the others.
JOBS = ("train_baseline", "extract_latents", "cluster", "learn_dictionaries", "train_robust")
STAGES_THERE = ("prepare", "baseline", "latents", "clusters", "robust_first", "robust")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("stages", [(), pytest.param(JOBS, marks=pytest.mark.slow)], ids=["short", "each"])
def test_a_bundle_is_fitted_and_used_by_jobs_whose_files_lie_in_a_store(
    head, store, small_set, small_settings, small_run, tmp_path, stages
):
    short = not stages
    name = f"jobs-{len(stages)}"
    store.put_folder(f"{name}/images", small_set)
    config = tmp_path / "settings.yaml"
    config.write_text(yaml.safe_dump(small_settings.model_dump(mode="json")))
    images, run_dir = store.uri(f"{name}/images"), store.uri(f"{name}/run")
    for stage in STAGES_THERE if short else ():
        store.put_folder(f"{name}/run/{stage}", small_run / stage)
    fit = ["--data", small_set if short else images, "--config", config, "--run-dir", run_dir]
    for stage in stages:
        said = last_line(submit(head, f"jobs/{stage}.py", *fit))
        assert said["exit"] == 0
        done = said["command"].rpartition(" ")[2]
        assert said[done] == f"s3://images/{name}/run/{done}"
        assert json.loads(store.read(f"{name}/run/{done}/stage.json"))["state"] == "complete"
    run = submit(head, "jobs/fit.py", *fit)
    assert run.stdout.count("complete, skipped") == (len(STAGES_THERE) if short else 8)
    assert last_line(run)["bundle"].endswith(f"{name}/run/bundle")
    for file in ("network.safetensors", "distributions.safetensors", "dictionaries.safetensors"):
        assert store.read(f"{name}/run/bundle/{file}") == (small_run / "bundle" / file).read_bytes()

    bundle, out = store.uri(f"{name}/run/bundle"), store.uri(f"{name}/out")
    said = last_line(submit(head, "jobs/purify.py", images, out, "--bundle", bundle))
    assert {key: said[key] for key in ("exit", "images", "purified", "failed")} == {
        "exit": 1,
        "images": 145,
        "purified": 144,
        "failed": 1,
    }
    assert len(pq.read_table(io.BytesIO(store.read(f"{name}/out/_raypurify/provenance.parquet")))) == 144
    if short:
        return
    training = {"epochs": 1, "batch_size": 32, "precision": "float32", "workers": 2}
    grid = {
        "images": {"paths": images, "size": 16, "limit": 20},
        "classifiers": {"net": {"kind": "wide-resnet", "path": store.uri(f"{name}/run/baseline/network.safetensors")}},
        "attacks": {"fgsm": {"attack": "fgsm", "eps": 0.03}},
        "purifiers": {
            "none": {"purifier": "none"},
            "RSFP": {"purifier": "rsfp", "bundle": bundle},
            "own": {"purifier": "own_purifier:BoxBlur"},
        },
        # In the working directory of the job, and on no worker's path.
        "modules": "examples",
        "retraining": {"paths": images, "size": 16, "validation": 24, "training": training},
    }
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
    said = last_line(submit(head, "jobs/evaluate.py", tmp_path / "grid.yaml", "--out", store.uri(f"{name}/report")))
    assert (said["exit"], said["report"].endswith("report.html")) == (0, True)
    assert store.read(f"{name}/report/cells.csv").count(b"\n") == 4
    retrain = ["--classifier", "net", "--purifier", "RSFP", "--run-dir", store.uri(f"{name}/retrained")]
    said = last_line(submit(head, "jobs/retrain.py", tmp_path / "grid.yaml", *retrain))
    assert said["exit"] == 0
    assert store.read(f"{name}/retrained/classifier/network.safetensors")


def test_a_job_that_cannot_work_fails_with_one_line(head, tmp_path):
    run = submit(head, "jobs/fit.py", "--data", "/no/data", "--preset", "tiny", "--run-dir", tmp_path / "run")
    assert run.returncode != 0
    assert "raypurify: /no/data: no such file or folder" in run.stdout + run.stderr
    assert "Traceback" not in run.stdout
