"""Checks of a cluster before a job: its nodes, whether they fit together, and what they share."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from raypurify.cli.doctor import agreement, sharing
from raypurify.cli.doctor.findings import Finding, all_well, find, nodes_text
from raypurify.cli.doctor.nodes import Nodes, meet
from raypurify.cli.doctor.witness import Witness
from raypurify.errors import one_line
from raypurify.runtime.resources import cluster_resources
from raypurify.runtime.session import ray_session

ROUNDS = 3


def examine_cluster(
    address: str | None, storages: Sequence[str], bundle: str | None, patience: float
) -> Iterator[Finding]:
    """The checks of the cluster at ``address``, or of a local Ray; see :func:`raypurify.cli.doctor.examine`."""
    with ExitStack() as stack:
        try:
            stack.enter_context(ray_session(address))
            nodes = meet(patience)
        except Exception as error:  # whatever keeps Ray from answering
            yield Finding("ray", False, one_line(error))
            return
        yield find("ray", partial(_answers, nodes))
        if not nodes.witnesses:
            return
        facts = nodes.facts
        here = Witness().facts(False)["versions"]
        checks: dict[str, Any] = {
            "versions": lambda: agreement.versions(here, {name: said["versions"] for name, said in facts.items()}),
            "GPUs": lambda: agreement.gpus(nodes.gpus, {name: said["gpus"] for name, said in facts.items()}),
            "disks": lambda: agreement.disks({name: (said["folder"], said["free"]) for name, said in facts.items()}),
            "access": lambda: _access(nodes),
            "clocks": lambda: _clocks(nodes),
        }
        checks |= {"bundle": lambda: sharing.bundle(nodes, bundle)} if bundle else {}
        for name, check in checks.items():
            yield find(name, check)
        for where in storages:
            yield find("storage", partial(sharing.storage, nodes, where))


def _answers(nodes: Nodes) -> str:
    has = cluster_resources()
    wrong = [f"{name} {why}: see raylet.out in its logs, or take that node away" for name, why in nodes.wrong.items()]
    cores = f" for {has.cores} cores, so that stages need not wait" if has.cores < has.cpus else ""
    return all_well(wrong, f"{nodes_text(has.nodes)}, {has.cpus} CPUs{cores}, {has.gpus} GPUs, and each answers")


def _clocks(nodes: Nodes) -> str:
    import ray

    apart = {}
    for name, one in nodes.witnesses.items():
        rounds = []
        for _ in range(ROUNDS):
            asked = time.time()
            told = ray.get(one.now.remote(), timeout=nodes.patience)
            rounds.append((asked, told, time.time()))
        apart[name] = agreement.offset(rounds)
    return agreement.clocks(apart)


def _access(nodes: Nodes) -> str:
    import ray

    addresses = [node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]]
    dashboard = getattr(ray._private.worker._global_node, "webui_url", None) or ""
    return agreement.access({name: said["token"] for name, said in nodes.facts.items()}, addresses, dashboard)
