"""Joining a Ray cluster, or starting a small one on this machine."""

import contextlib
import logging
import os
import secrets
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from raypurify.errors import ConfigError, RaypurifyError, one_line
from raypurify.runtime.events import log_event
from raypurify.runtime.resources import local_cores

# Seconds within which a cluster's head has to take a connection.
PATIENCE = 10.0

# A task on a host that vanishes without a word counts as running until its connection is found dead: by Ray's own
# settings after seven minutes. Nodes that know nothing of these settings take a question a minute, and no more.
KEEPALIVE = {"RAY_grpc_client_keepalive_time_ms": "60000", "RAY_grpc_client_keepalive_timeout_ms": "30000"}
# Ray reads these when it is imported or first started, so they are set before either.
_SET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TRAIN_V2_ENABLED": "1", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
for _name, _value in (_SET | KEEPALIVE).items():
    os.environ.setdefault(_name, _value)


@contextmanager
def ray_session(address: str | None = None, num_cpus: int | None = None, verbose: bool = False) -> Iterator[None]:
    """Have Ray for the length of the block.

    The session there is, the cluster at ``address`` (or ``RAY_ADDRESS``, set inside a Ray job), or else a Ray of this
    machine's own that ends with the block.
    """
    if _is_there():
        _quiet(verbose)
        yield
        return
    start_ray(address, num_cpus, verbose)
    try:
        yield
    finally:
        sys.modules["ray"].shutdown()


def joins_cluster(address: str | None = None) -> bool:
    """Whether :func:`ray_session` takes a Ray that is there, or a cluster, instead of starting one of this machine."""
    return _is_there() or bool(address or os.environ.get("RAY_ADDRESS"))


def start_ray(address: str | None = None, num_cpus: int | None = None, verbose: bool = False) -> None:
    """Connect to the cluster at ``address`` or ``RAY_ADDRESS``; without either, start a Ray of this machine's own.

    A local Ray counts at least 4 logical CPUs: pools of actors plus reading tasks must fit, or a job waits for ever. It
    listens on loopback, its metrics too, and is given a random token that lives in this process's environment alone,
    for the machine's other users, unless ``RAY_AUTH_MODE`` says otherwise (or Ray was imported before and has read it).

    Raises ConfigError where nobody listens at the host and port of an address, and RaypurifyError where a Ray does not
    start in time.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    if address:
        _check_listened(address)
    if not verbose:
        # Warnings of Ray's C++ core about Ray Data's own actors are not for users; the log files keep what matters.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if not address:
        # Actors and tasks of a small machine start together; the raylet need not warn of it.
        os.environ.setdefault("RAY_worker_maximum_startup_concurrency", "16")
    if not address and "RAY_AUTH_MODE" not in os.environ and "ray" not in sys.modules:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    common: dict[str, Any] = {"log_to_driver": verbose, "logging_level": logging.INFO if verbose else logging.ERROR}
    if address:
        # What listens on loopback answers who does so too.
        with _on_loopback() if address.startswith("127.") else contextlib.nullcontext():
            ray.init(address=address, **common)
    else:
        cpus = num_cpus or max(4, local_cores())
        log_event("ray_starts", "starting Ray on this machine", aside=True)
        with _failing_is_said(), contextlib.nullcontext() if verbose else _stderr_closed(), _on_loopback():
            ray.init(address="local", num_cpus=cpus, include_dashboard=False, **common)
    _quiet(verbose)


@contextmanager
def _failing_is_said() -> Iterator[None]:
    try:
        yield
    # A bare Exception, which Ray raises on a machine that is too busy.
    except Exception as error:
        if "timed out during startup" not in str(error):
            if isinstance(error, OSError):
                raise RaypurifyError(
                    f"Ray did not start: {one_line(error)}; mend that, or join a cluster by --address"
                ) from error
            raise
        raise RaypurifyError(
            f"Ray did not start in time: {one_line(error)}; the machine may be busy: run again later, or join a "
            "cluster by --address"
        ) from error


def _check_listened(address: str) -> None:
    """Ray itself asks a head that is not there again and again, for longer than anybody waits."""
    where = urlsplit(address if "://" in address else f"//{address}")
    try:
        host, port = where.hostname, where.port
    except ValueError as error:
        raise ConfigError(f"address {address!r}: {error}; write HOST:PORT, or auto") from error
    # "auto" and the like, which Ray looks up by itself.
    if host is None or port is None:
        return
    try:
        socket.create_connection((host, port), PATIENCE).close()
    except OSError as error:
        raise ConfigError(
            f"no Ray cluster listens at {address}: {error}; start it, or write the address that its `ray start` printed"
        ) from error


def _is_there() -> bool:
    return "ray" in sys.modules and sys.modules["ray"].is_initialized()


@contextmanager
def _on_loopback() -> Iterator[None]:
    """A Ray that starts listens on loopback, as it does by itself on macOS and Windows only."""
    from ray._private import ray_constants

    before = getattr(ray_constants, "ENABLE_RAY_CLUSTER", True)
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _stderr_closed() -> Iterator[None]:
    """Ray's C++ core announces its log level on file descriptor 2, past Python; errors of the start are exceptions."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def ray_data() -> Any:
    """Ray Data without its bars and chatter, as progress is shown by raypurify, and in order. Apart from the session:
    to import it takes longer than to start some jobs that have no use for it."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    # Its import has set it anew.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray.data


def _quiet(verbose: bool) -> None:
    """Ray's own chatter off."""
    ray = sys.modules["ray"]
    if not verbose:
        # Each worker that dies would be a paragraph that no log level silences; whoever started it says what it means.
        if hasattr(ray._private.worker, "print_to_stdstream"):
            ray._private.worker.print_to_stdstream = lambda *_, **__: None
        for name in ("ray.data", "ray.train", "ray.serve"):
            logging.getLogger(name).setLevel(logging.ERROR)
