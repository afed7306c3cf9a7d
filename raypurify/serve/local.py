"""Serving from this process: start Ray and Serve, say when the endpoint is ready, end it without cutting an answer."""

import contextlib
import ipaddress
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from raypurify.errors import ConfigError
from raypurify.serve.auth import check_token, hash_token
from raypurify.serve.hops import GRPC

APP = "raypurify"
# How long callers that are in are waited for when the endpoint ends.
_END_S = 30
# The ingress answers before Serve's proxy gives up, which it does in plain text.
_SPARE_S = 10


@contextmanager
def serving(
    bundle: str = "cifar10",
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    token: str | Sequence[str] | None = None,
    address: str | None = None,
    num_cpus: int | None = None,
    replica_cpus: float = 1,
    replica_gpus: float = 0,
    **settings: Any,
) -> Iterator[str]:
    """Serve ``bundle`` for the length of the block; yields the endpoint's URL once it is ready.

    ``token`` is what callers must send, or several of which they send one; None answers anyone, on loopback only.
    ``address`` is a Ray cluster, None this machine, of which ``num_cpus`` CPUs are used. A replica takes
    ``replica_cpus`` and ``replica_gpus``; ``settings`` are other fields of ``ServeSettings``, of which ``max_replicas``
    is by default what the CPUs allow, of a cluster those that it has now, or 4 of replicas on GPUs. At the end new
    callers are refused and those who are in get their answer, for half a minute at most. Raises ConfigError or
    BundleError before Ray is started.
    """
    from raypurify.runtime.resources import cluster_resources, local_cores
    from raypurify.runtime.session import joins_cluster, ray_session
    from raypurify.serve.settings import parse_settings

    args = {"bundle": str(bundle), "num_cpus": replica_cpus, "num_gpus": replica_gpus, **settings}
    by_cpus = "max_replicas" not in args and replica_cpus > 0 and not replica_gpus
    if by_cpus:
        args["max_replicas"] = _room(num_cpus or local_cores(), args)
    if token is None:
        if not _is_loopback(host):
            raise ConfigError(
                f"without a token the endpoint listens on loopback only, not on {host}; give a token, or leave --host"
            )
        args["no_auth"] = True
    else:
        tokens = [token] if isinstance(token, str) else token
        args["token_sha256"] = [hash_token(check_token(one)) for one in tokens]
    longest, joins = parse_settings(args).timeout_s, joins_cluster(address)
    if address is None:
        # Ray has its workers yield to whatever else runs; here they are what callers wait for.
        for name, value in (GRPC | {"RAY_worker_niceness": "0"}).items():
            os.environ.setdefault(name, value)
    with contextlib.nullcontext() if address else _held(host, port), ray_session(address, num_cpus):
        from ray import serve

        from raypurify.serve.app import build

        if by_cpus and joins:
            args["max_replicas"] = _room(cluster_resources().cpus, args)
        application = build(args)
        ours = not serve.status().proxies
        options = {"host": host, "port": port, "request_timeout_s": longest + _SPARE_S}
        try:
            serve.start(http_options=options, proxy_location="HeadOnly")
            # Serve resets its logger's level when it starts; from here on only what went wrong is of interest.
            logging.getLogger("ray.serve").setLevel(logging.WARNING)
            serve.run(application, name=APP, route_prefix="/")
            try:
                # Of an IPv6 address the port is told apart by brackets.
                yield f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            finally:
                _finish(min(longest, _END_S))
        finally:
            serve.shutdown() if ours else serve.delete(APP)


def run(bundle: str = "cifar10", host: str = "127.0.0.1", port: int = 8000, **options: Any) -> None:
    """Serve ``bundle`` until Ctrl-C or SIGTERM, with the options of :func:`serving`."""
    stop = threading.Event()
    before = {}
    print(f"starting an endpoint of {bundle}", file=sys.stderr, flush=True)
    with serving(bundle, host, port, **options) as url:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                before[number] = signal.signal(number, lambda *_: stop.set())
        caller = "with the token" if options.get("token") is not None else "for anyone, without a token"
        pages = f"a page at {url}, docs at {url}/docs"
        print(f"raypurify serves {bundle} at {url}/v1/purify {caller}; {pages}; Ctrl-C ends it", flush=True)
        try:
            stop.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _finish(seconds: float) -> None:
    """Have new callers refused, and wait until those who are in have their answer, for ``seconds`` at most."""
    from ray import serve
    from ray.exceptions import RayError

    until = time.monotonic() + seconds
    with contextlib.suppress(RayError, TimeoutError):
        handle = serve.get_app_handle(APP)
        while _inside(handle, seconds) and time.monotonic() < until:
            time.sleep(0.1)
        # What an ingress has answered is still on its way through the proxy.
        time.sleep(0.2)


def _inside(handle: Any, seconds: float) -> int:
    """Callers without an answer, at all ingresses; none takes in new ones from here on."""
    if hasattr(handle, "broadcast"):
        return sum(handle.broadcast("end").results(timeout_s=seconds))
    # Older releases of Ray reach one ingress; there are more only under heavy load.
    return handle.end.remote().result(timeout_s=seconds)


def _room(cpus: float, args: dict[str, Any]) -> int:
    """Replicas for which there are CPUs, and no fewer than there are to be."""
    return max(1, int(cpus / args["num_cpus"]), args.get("min_replicas", 1))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextmanager
def _held(host: str, port: int) -> Iterator[None]:
    """Hold a free port for Serve's proxy of this process, and of no other, also while the proxy is replaced.

    Raises ConfigError where it is taken. The proxy binds with SO_REUSEPORT, which would let any number of endpoints of
    one user share a port. So this binds without it, and sets it when the port is ours.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as holder:
        try:
            # What the last endpoint left in TIME_WAIT does not hold the port; another holder does.
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.bind((host, port))
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
            if hasattr(socket, "SO_REUSEPORT"):
                holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        except (OSError, OverflowError) as error:
            raise ConfigError(f"cannot listen on {host}:{port}: {error}; choose another --host or --port") from error
        yield
