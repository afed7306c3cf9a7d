"""Who purifies: this process, actors of the job, or replicas that serve."""

import glob
import logging
import os

from raypurify.bulk.planning import SMALL
from raypurify.bulk.shards import ActorShape
from raypurify.bulk.tally import say
from raypurify.containers.at_work import AtWork
from raypurify.containers.source import Source
from raypurify.errors import ConfigError
from raypurify.runtime.session import joins_cluster

ENGINES = ("auto", "local", "actors", "serve")
# Each is 32 MiB of the input at most.
SMALL_SHARDS = 16


def check_engine(engine: str, address: str | None) -> None:
    """Raises ConfigError where there is no such engine, or it does not go with a cluster."""
    if engine not in ENGINES:
        raise ConfigError(f"unknown engine {engine!r}; use one of {', '.join(ENGINES)}")
    if engine == "local" and address:
        raise ConfigError("--engine local uses no cluster; leave --address out, or use --engine actors")


def chosen_engine(engine: str, source: Source, shape: ActorShape, address: str | None) -> str:
    """The engine, and for "auto" which it is: "local" where all of a small input is known, no cluster is named or
    there, nothing is asked of actors, and this machine has one GPU at most."""
    if engine != "auto":
        return engine
    small = not source.seen_to and source.rows <= SMALL and len(source.shards) <= SMALL_SHARDS
    here = small and shape == ActorShape() and not joins_cluster(address) and _gpus() < 2
    return "local" if here else "actors"


def after_deaths(engine: str, asked: str, note: AtWork) -> str:
    """The engine of a job whose output is held: where "auto" chose this process, and an earlier one died of this work,
    actors, who find the image that killed it. Tells of such a death."""
    if engine != "local" or not (died := note.died_over()):
        return engine
    over = f"an earlier run died at shard {died[0]}" + f" or {len(died) - 1} more" * (len(died) > 1)
    if asked == "local":
        say("died_before", f"{over}; if this one does too, run it with --engine actors", logging.WARNING)
        return engine
    say("died_before", f"{over}; actors go on, who leave out an image that kills", logging.WARNING)
    return "actors"


def _gpus() -> int:
    """NVIDIA GPUs that this process may use; torch, which knows them better, takes a second to ask."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return len(glob.glob("/dev/nvidia[0-9]*")) if visible is None else len(visible.split(","))
