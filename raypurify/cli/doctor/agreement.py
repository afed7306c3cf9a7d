"""Whether what the nodes of a cluster say of themselves fits together; nothing here asks them."""

import ipaddress
from collections.abc import Iterable, Sequence

from raypurify.cli.doctor.findings import all_well, nodes_text
from raypurify.cli.doctor.machine import LEAST_DISK

Versions = dict[str, str | None]
# By more, and one holder's sign of life is another's dead lease.
MOST_APART = 2.0


def versions(here: Versions, there: dict[str, Versions]) -> str:
    """That every node has the versions of this machine. Raises RuntimeError naming those that differ.

    A build for CUDA and one for CPUs are one version: nodes with and without GPUs work together.
    """
    wrong = []
    for node, found in there.items():
        other = [name for name in here if _public(found.get(name)) != _public(here[name])]
        if other:
            has = ", ".join(f"{name} {found[name]}" if found.get(name) else f"no {name}" for name in other)
            wrong.append(f"{node} has {has}, not {', '.join(f'{name} {here[name]}' for name in other)} as here")
    same = ", ".join(f"{name} {_public(version)}" for name, version in here.items())
    return all_well([*wrong, *["install the same on all nodes"] * bool(wrong)], f"{same} on {nodes_text(len(there))}")


def _public(version: str | None) -> str | None:
    """
    >>> _public("2.10.0+cu130")
    '2.10.0'
    """
    return version and version.partition("+")[0]


def gpus(counted: dict[str, float], seen: dict[str, int]) -> str:
    """That torch sees on every node the GPUs that Ray counts there. Raises RuntimeError naming those where not."""
    wrong = [
        f"of GPUs on {node} Ray counts {counted[node]:g} and torch sees {count}: install the build of torch for its "
        f"driver, or start that node with --num-gpus {count}"
        for node, count in seen.items()
        if counted[node] > count
    ]
    total = sum(counted[node] for node in seen)
    return all_well(wrong, f"torch sees the {total:g} that Ray counts" if total else "Ray counts none")


def disks(found: dict[str, tuple[str, int]]) -> str:
    """That every node has room where Ray works, of its (folder, bytes free). Raises RuntimeError naming those that have
    none."""
    wrong = [
        f"{node} has {free / 2**30:.1f} GiB free in {folder}: free some, or start that node with --temp-dir"
        for node, (folder, free) in found.items()
        if free < LEAST_DISK
    ]
    return all_well(wrong, f"{min(free for _, free in found.values()) / 2**30:.0f} GiB free at least")


def offset(rounds: Iterable[tuple[float, float, float]]) -> tuple[float, float]:
    """How far another clock is ahead, and how exactly that is known, in seconds: of (asked, told, heard), the first and
    last by the clock of this machine, the round that took the least.

    >>> offset([(100.0, 108.0, 104.0), (110.0, 116.5, 111.0)])
    (6.0, 0.5)
    """
    asked, told, heard = min(rounds, key=lambda times: times[2] - times[0])
    return told - (asked + heard) / 2, (heard - asked) / 2


def clocks(apart: dict[str, tuple[float, float]]) -> str:
    """That every node's clock is within ``MOST_APART`` seconds of this machine's, of its ``offset``. Raises
    RuntimeError saying how far those are away that are not."""
    wrong = [
        f"{node} is {abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} this machine: let both follow one time "
        "server (chrony, systemd-timesyncd), for leases go by clocks"
        for node, (ahead, exact) in apart.items()
        if abs(ahead) - exact > MOST_APART
    ]
    most = max(abs(ahead) + exact for ahead, exact in apart.values())
    return all_well(wrong, f"within {most:.3f} s of this machine's")


def access(tokens: dict[str, bool], addresses: Sequence[str], dashboard: str) -> str:
    """That who reaches the cluster needs its token, or that only this machine reaches it. Raises a Warning where anyone
    in its network can run code on it; ``dashboard`` is where that listens, "" without one."""
    open_nodes = [node for node, token in tokens.items() if not token]
    shown = f", dashboard at {dashboard}" if dashboard else ""
    if not open_nodes:
        return f"Ray asks for a token{shown}"
    if all(_loopback(address) for address in (*addresses, *[dashboard] * bool(dashboard))):
        return f"Ray asks for no token, and listens on loopback alone{shown}"
    raise UserWarning(
        f"{nodes_text(len(open_nodes))} of {len(tokens)} ask for no token and listen beyond loopback{shown}: who "
        "reaches their ports can run code there; start every node with RAY_AUTH_MODE=token, or keep all others away"
    )


def _loopback(address: str) -> bool:
    """
    >>> [_loopback(one) for one in ("127.0.0.1:8265", "::1", "localhost:1", "10.0.0.1:8265", "head.example.org:8265")]
    [True, True, True, False, False]
    """
    host = address if address.count(":") > 1 else address.partition(":")[0]
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
