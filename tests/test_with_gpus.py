"""jobs/with_gpus.py: a command begins when its GPUs are there, which the autoscaler is asked for until it ends."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "jobs" / "with_gpus.py"
# Ends, and says how many GPUs the cluster had when it began, when it is given a line.
COMMAND = "import ray; ray.init(); n = int(ray.cluster_resources()['GPU']); input(); print(n); raise SystemExit(3)"


def begin(count, address):
    command = [sys.executable, str(SCRIPT), str(count), sys.executable, "-c", COMMAND]
    environment = {**os.environ, "RAY_ADDRESS": address}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


@pytest.mark.slow
def test_each_command_has_its_gpus_from_the_start_and_none_takes_anothers_away():
    from ray._raylet import GcsClient
    from ray.autoscaler._private.constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0})
    gcs = GcsClient(address=cluster.address)

    def asked():
        bundles = json.loads(gcs.internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL, None))
        assert all(bundle == {"GPU": 1} for bundle in bundles)
        return len(bundles)

    runs = [begin(2, cluster.address)]
    first = runs[0]
    try:
        assert first.stdout.readline().startswith("waiting for 2 GPUs: the cluster has 0")
        assert asked() == 2
        cluster.add_node(num_cpus=0, num_gpus=2)
        runs.append(begin(1, cluster.address))
        second = runs[1]
        assert second.stdout.readline().startswith("waiting for 1 GPUs beside the 2 of earlier jobs: the cluster has 2")
        assert asked() == 3
        cluster.add_node(num_cpus=0, num_gpus=1)
        assert second.communicate("\n", timeout=60)[0].split() == ["3"]
        assert asked() == 2
        assert first.communicate("\n", timeout=60)[0].split() == ["2"]
        assert [run.returncode for run in runs] == [3, 3]
        assert asked() == 0
    finally:
        for run in runs:
            run.kill()
        cluster.shutdown()


@pytest.mark.parametrize("arguments", [[], ["4"], ["four", "true"]])
def test_it_says_how_it_is_called(arguments):
    run = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True)
    assert run.returncode == 1
    assert "give a number of GPUs and the command" in run.stderr
