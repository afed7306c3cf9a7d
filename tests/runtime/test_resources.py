"""How much of a cluster can compute at a time."""

import os
import sys

import pytest

from raypurify.runtime.resources import Resources, local_cores


@pytest.mark.parametrize(("cpus", "nodes", "cores"), [(4, 1, 2), (1, 1, 1), (0, 1, 0), (4, 2, 4)])
def test_one_machine_has_no_more_cores_than_it_has_whatever_ray_counts(monkeypatch, cpus, nodes, cores):
    monkeypatch.setattr("raypurify.runtime.resources.local_cores", lambda: 2)
    assert Resources(cpus, 0, nodes).cores == cores


@pytest.mark.skipif(sys.platform != "linux", reason="binds a process to cores by a call of Linux")
def test_a_process_bound_to_some_cores_counts_these():
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(mine)})
    try:
        assert local_cores() == 1
    finally:
        os.sched_setaffinity(0, mine)
