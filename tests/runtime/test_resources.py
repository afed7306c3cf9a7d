"""How much of a cluster can compute at a time."""

import pytest

from raypurify.runtime.resources import Resources


@pytest.mark.parametrize(("cpus", "nodes", "cores"), [(4, 1, 2), (1, 1, 1), (0, 1, 0), (4, 2, 4)])
def test_one_machine_has_no_more_cores_than_it_has_whatever_ray_counts(monkeypatch, cpus, nodes, cores):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert Resources(cpus, 0, nodes).cores == cores
