"""Bulk jobs over three hosts, one of which is cut off in the middle, end in the bytes of an undisturbed local job."""

import re
import time

import pytest
from bulk_work import work_of
from hosts import LOST_S, cluster_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def work(local_ray, tmp_path_factory):
    with cluster_of(3) as cluster:
        # Eight shards.
        yield work_of(cluster, tmp_path_factory.mktemp("whole"), 768)


def test_a_host_that_is_cut_off_in_the_middle_changes_nothing(work):
    job, lost = work.begin("cut"), work.cluster.workers[1]
    work.wait(job)
    with work.cluster.cut_off(lost):
        work.check("cut", job)
        assert lost.address not in work.cluster.alive()
    assert re.search(r"an actor on worker-2 died over shard .*; it is begun again", job.said), job.said


@pytest.mark.parametrize("seconds", [3, 2 * LOST_S])
def test_a_partition_that_heals_changes_nothing(work, seconds):
    out, lost = f"healed-{seconds}", work.cluster.workers[0]
    job = work.begin(out)
    work.wait(job)
    with work.cluster.cut_off(lost):
        time.sleep(seconds)
        lost.join()
        work.check(out, job)
        assert (lost.address in work.cluster.alive()) == (seconds < LOST_S)
