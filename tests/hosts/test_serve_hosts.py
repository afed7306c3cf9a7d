"""A bulk job through an endpoint whose replicas are on three hosts: each does a part, and one may be cut off."""

import json
import time

import pytest
from bulk_work import work_of
from hosts import Cluster, cluster_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
# Says how long the replicas of each host have worked.
REPORT = """
import collections, json, ray
from ray import serve
from raypurify.serve.local import APP
ray.init(logging_level="ERROR", log_to_driver=False)
address = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}
handle = serve.get_deployment_handle("Purifier", APP)
busy = collections.Counter()
for report in handle.broadcast("report").results(timeout_s=30, return_exceptions=True):
    if isinstance(report, dict):
        busy[address[report["node"]]] += report["busy_s"]
print("busy", json.dumps(busy))
"""


@pytest.fixture(scope="module")
def work(local_ray, tmp_path_factory):
    with cluster_of(3) as cluster:
        # No host has room for two replicas.
        options = ("--no-auth", "--min-replicas", "3", "--max-replicas", "3", "--replica-cpus", "0.6")
        cluster.begin("-m", "raypurify", "serve", "--bundle", "cifar10", *options)
        until = time.monotonic() + 180
        while len(busy(cluster)) < 3:
            assert time.monotonic() < until, cluster.head.said("job-1")
        yield work_of(cluster, tmp_path_factory.mktemp("whole"), 768)


def busy(cluster: Cluster) -> dict[str, float]:
    """Seconds of work by host; none where the endpoint does not answer."""
    asked = cluster.begin("-c", REPORT)
    asked.process.wait(60)
    lines = [line for line in asked.said.splitlines() if line.startswith("busy ")]
    return json.loads(lines[-1].removeprefix("busy ")) if lines else {}


def test_every_host_does_a_part_of_a_job_through_the_endpoint(work):
    before = busy(work.cluster)
    job = work.begin("served", "--engine", "serve")
    work.check("served", job)
    worked = {host: now - before[host] for host, now in busy(work.cluster).items()}
    assert len(worked) == 3
    assert min(worked.values()) > 0.1 * sum(worked.values()), worked


def test_a_replicas_host_that_is_cut_off_loses_no_image(work):
    job, lost = work.begin("served-cut", "--engine", "serve"), work.cluster.workers[2]
    work.wait(job)
    with work.cluster.cut_off(lost):
        work.check("served-cut", job)
        assert lost.address not in work.cluster.alive()
        assert set(busy(work.cluster)) == {worker.address for worker in work.cluster.workers[:2]}
