"""The weights a training starts from."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn

from raypurify.errors import ConfigError
from raypurify.nets import WideResNet
from raypurify.nets.store import load_network
from raypurify.storage import Where, redact, resolve

Net = TypeVar("Net", bound=nn.Module)


def drawn_network(make: Callable[[], Net], seed: int) -> Net:
    """The network that ``make()`` gives, its weights drawn from ``seed``; torch's generator stays as it was.

    >>> one, same = (drawn_network(lambda: nn.Linear(1, 1), seed=3).weight.item() for _ in range(2))
    >>> one == same
    True
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def starting_network(init: str, architecture: dict[str, Any], seed: int, baseline: Where | None = None) -> WideResNet:
    """A WideResNet of ``architecture`` (depth, width, classes, dropout), with the weights that ``robust.init`` names.

    ``"random"``: drawn from ``seed``; ``"baseline"`` and ``"first"``: those of the file ``baseline``; otherwise those
    of the file that ``init`` is the path of. The rows of RSFP's Table I are ``random``, and the paths of networks that
    PGD adversarial training or TRADES made (``robust.alpha: 0``).

    Raises ConfigError for a file that is not there, is not asked for rightly, or holds another architecture.

    >>> starting_network("random", {"depth": 10, "width": 1, "classes": 2, "dropout": 0.0}, seed=0).dim
    64
    """
    network = drawn_network(partial(WideResNet, **architecture), seed)
    if init == "random":
        return network
    given = init in ("baseline", "first")
    if given and baseline is None:
        raise ConfigError(f"robust.init is {init}, but no such network is given: give it, or set random or a path")
    try:
        path = resolve(baseline if given and baseline else os.path.expanduser(init))
        there = path.kind == "file"
    except (OSError, ValueError, ImportError) as e:
        raise ConfigError(f"robust.init: {redact(init)} cannot be reached: {e}; check the path") from e
    if not there:
        raise ConfigError(f"robust.init: there is no network at {path}")
    found = load_network(path, WideResNet)
    differs = [k for k in ("depth", "width", "classes") if found.settings[k] != architecture[k]]
    if differs:
        facts = ", ".join(f"{k} {found.settings[k]}, not {architecture[k]}" for k in differs)
        raise ConfigError(f"robust.init: the network in {path} has {facts}")
    network.load_state_dict(found.state_dict())
    return network
