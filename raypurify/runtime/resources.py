"""What the Ray cluster of this session has."""

import os
from typing import NamedTuple


class Resources(NamedTuple):
    """Logical CPUs and whole GPUs of a cluster, and how many of its nodes are alive."""

    cpus: int
    gpus: int
    nodes: int

    @property
    def cores(self) -> int:
        """How many processes can compute at a time: a local Ray may count more CPUs than the machine has."""
        return self.cpus if self.nodes > 1 else min(self.cpus, os.cpu_count() or 1)


def cluster_resources() -> Resources:
    """The resources of the cluster that this process has joined, as Ray counts them now."""
    import ray

    has = ray.cluster_resources()
    nodes = sum(node["Alive"] for node in ray.nodes())
    return Resources(int(has.get("CPU", 0)), int(has.get("GPU", 0)), nodes)
