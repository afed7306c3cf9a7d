"""Latents kept in Ray's object store from their extraction to k-means, so that nobody reads their files again."""

from contextlib import suppress
from typing import Any, NamedTuple, TypeAlias

import numpy as np

# Of the object store of each node. The blocks of large classes, which are copies, and Ray Data need room too.
SHARE = 0.3
# Bytes of latents from which on keepers are started: to read less takes no longer than that.
LEAST = 256 << 20
# Seconds that a keeper has to answer, or it counts as lost with its node.
PATIENCE = 60


class Group(NamedTuple):
    """Consecutive latents of a class in a unit: how many, their features, and the object (rows, latents)."""

    rows: int
    width: int
    ref: Any


# The members of each class in a unit, in groups of indices.
Members: TypeAlias = dict[int, list[np.ndarray]]
# What is kept of each unit and class.
Parts: TypeAlias = dict[str, dict[int, list[Group]]]


class Keeper:
    """Owns what was extracted on its node, up to ``budget`` bytes.

    An object dies with its owner, and extractors end before k-means begins.
    """

    def __init__(self, budget: float):
        self.left, self.parts = budget, Parts()

    def keep(self, unit: str, members: Members, rows: np.ndarray, latents: np.ndarray) -> None:
        """Keep the ``members`` of ``rows`` (n,) and ``latents`` (n, d), unless they exceed the budget."""
        import ray

        if unit not in self.parts and latents.nbytes <= self.left:
            self.left -= latents.nbytes
            self.parts[unit] = {
                label: [Group(len(some), latents.shape[1], ray.put((rows[some], latents[some]))) for some in groups]
                for label, groups in members.items()
            }

    def kept(self) -> Parts:
        """All that is kept, by unit and class."""
        return self.parts


class Kept:
    """The keepers of a cluster: none until ``start``, then one for each node that is there, if it is worth while."""

    def __init__(self) -> None:
        self._keepers: dict[str, Any] = {}

    def start(self, size: int) -> dict[str, Any]:
        """Start the keepers for ``size`` bytes, processes without CPUs of their own, and return them by the IDs of
        their nodes: none for less than ``LEAST``."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        for node in ray.nodes():
            if node["Alive"] and size >= LEAST:
                here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                keeper = ray.remote(num_cpus=0)(Keeper).options(scheduling_strategy=here)
                self._keepers[node["NodeID"]] = keeper.remote(SHARE * node["Resources"].get("object_store_memory", 0))
        return self._keepers

    def parts(self) -> Parts:
        """What the keepers that are left keep, by unit and class."""
        import ray
        from ray.exceptions import RayError

        parts = Parts()
        for answer in [keeper.kept.remote() for keeper in self._keepers.values()]:
            with suppress(RayError):
                parts |= ray.get(answer, timeout=PATIENCE)
        return parts

    def end(self) -> None:
        """End the keepers, and with them the objects."""
        import ray

        while self._keepers:
            ray.kill(self._keepers.popitem()[1])
