"""Where the workers of a training meet: on CPUs each listens at its node's address, which the other hosts reach."""

import os
import socket
from dataclasses import dataclass
from typing import Any

from ray.train.torch import TorchConfig

INTERFACE = "GLOO_SOCKET_IFNAME"


@dataclass
class HostsTorchConfig(TorchConfig):
    """Ray Train's own way to join workers, after each has chosen the interface of its node's address.

    Left to itself, Gloo listens at what the host's name stands for. On many machines that is a loopback address, at
    which no other host answers.
    """

    @property
    def backend_cls(self) -> Any:
        """What joins the workers."""
        return _Backend


class _Backend(TorchConfig().backend_cls):  # type: ignore[misc]  # Ray names the class by a property
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(listen_at_node)
        super().on_start(worker_group, backend_config)


def listen_at_node() -> None:
    """Choose the interface of this node's address for Gloo, unless the environment names one."""
    import ray

    if name := interface_of(ray.util.get_node_ip_address()):
        os.environ.setdefault(INTERFACE, name)


def interface_of(address: str) -> str | None:
    """The network interface of this machine that has an address; None where none has.

    >>> interface_of("192.0.2.1")
    """
    import psutil  # that of Ray, which has it on its path

    for name, addresses in psutil.net_if_addrs().items():
        if any(one.family in (socket.AF_INET, socket.AF_INET6) and one.address == address for one in addresses):
            return name
    return None
