"""Whether this machine, or a cluster, can do what raypurify asks of it: one finding a check.

* ``machine``: packages, devices, bundles, sparse coding and disk of this machine.
* ``nodes``: every node of a cluster is asked, by a ``witness`` on each.
* ``agreement``: whether what the nodes said fits together: versions, GPUs, disks, clocks, access.
* ``sharing``: whether they all read and write a storage, and open a bundle.
"""

from collections.abc import Iterator, Sequence

from raypurify.cli.doctor.findings import Finding, find
from raypurify.cli.doctor.machine import MACHINE


def examine(
    address: str | None = None, storages: Sequence[str] = (), bundle: str | None = None, patience: float = 60.0
) -> Iterator[Finding]:
    """All checks, each as soon as it is done: those of this machine, then those of every node of the Ray cluster at
    ``address``, or of a local Ray. ``storages`` are folders or URIs that all nodes have to read and write, ``bundle``
    is one that all have to open. A node that gives no answer within ``patience`` seconds is named, and not asked
    again."""
    for name, check in MACHINE.items():
        yield find(name, check)
    # Imported late: what it needs may be what is missing.
    from raypurify.cli.doctor.cluster import examine_cluster

    yield from examine_cluster(address, storages, bundle, patience)
