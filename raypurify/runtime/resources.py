"""What this machine and the Ray cluster of this session have."""

from typing import NamedTuple


class Resources(NamedTuple):
    """Logical CPUs and whole GPUs of a cluster, and how many of its nodes are alive."""

    cpus: int
    gpus: int
    nodes: int

    @property
    def cores(self) -> int:
        """How many processes can compute at a time: a local Ray may count more CPUs than the machine has."""
        return self.cpus if self.nodes > 1 else min(self.cpus, local_cores())


def local_cores() -> int:
    """The cores that this process may use, which in a container with a quota are fewer than the machine has.

    >>> local_cores() >= 1
    True
    """
    from joblib import cpu_count

    return cpu_count()


def cluster_resources() -> Resources:
    """The resources of the cluster that this process has joined, as Ray counts them now."""
    import ray

    has = ray.cluster_resources()
    nodes = sum(node["Alive"] for node in ray.nodes())
    return Resources(int(has.get("CPU", 0)), int(has.get("GPU", 0)), nodes)
