"""jobs/with_gpus.py: a command begins when its GPUs are there, which the autoscaler is asked for until it ends."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "jobs" / "with_gpus.py"
COMMAND = "import ray; ray.init(); print(int(ray.cluster_resources()['GPU'])); raise SystemExit(3)"


@pytest.mark.slow
def test_a_command_has_its_gpus_from_the_start_and_they_are_let_go_after_it():
    from ray._raylet import GcsClient
    from ray.autoscaler._private.constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0})
    gcs = GcsClient(address=cluster.address)

    def asked():
        return json.loads(gcs.internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL, None))

    command = [sys.executable, str(SCRIPT), "2", sys.executable, "-c", COMMAND]
    environment = {**os.environ, "RAY_ADDRESS": cluster.address}
    run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert run.stdout.readline().startswith("waiting for 2 GPUs: the cluster has 0")
        assert asked() == [{"GPU": 1}, {"GPU": 1}]
        cluster.add_node(num_cpus=0, num_gpus=2)
        assert run.stdout.read().split() == ["2"]
        assert run.wait(60) == 3
        assert asked() == []
    finally:
        run.kill()
        cluster.shutdown()


@pytest.mark.parametrize("arguments", [[], ["4"], ["four", "true"]])
def test_it_says_how_it_is_called(arguments):
    run = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True)
    assert run.returncode == 1
    assert "give a number of GPUs and the command" in run.stderr
