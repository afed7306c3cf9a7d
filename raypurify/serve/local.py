"""Serving from this process: start Ray and Serve, say when the endpoint is ready, stop what was started."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from raypurify.errors import ConfigError
from raypurify.serve.auth import hash_token

APP = "raypurify"
_REQUEST_TIMEOUT_S = 300


@contextmanager
def serving(
    bundle: str = "cifar10",
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    token: str | None = None,
    address: str | None = None,
    num_cpus: int | None = None,
    **settings: Any,
) -> Iterator[str]:
    """Serve ``bundle`` for the length of the block; yields the endpoint's URL once it is ready.

    ``token`` is what callers must send, None answers anyone; ``address`` is a Ray cluster, None this machine;
    ``settings`` are other fields of ``ServeSettings``. Raises ConfigError or BundleError before Ray is started.
    """
    from raypurify.runtime.session import ray_session

    args = {"bundle": str(bundle), "max_replicas": max(1, (num_cpus or os.cpu_count() or 1)), **settings}
    if token is not None and not token.strip():
        raise ConfigError("the token is empty; give a long random one, or no token to answer anyone who calls")
    args |= {"no_auth": True} if token is None else {"token_sha256": hash_token(token)}
    if address is None:
        _check_port(host, port)
    with ray_session(address, num_cpus):
        from ray import serve

        from raypurify.serve.app import build

        application = build(args)
        ours = not serve.status().proxies
        options = {"host": host, "port": port, "request_timeout_s": _REQUEST_TIMEOUT_S}
        try:
            serve.start(http_options=options, proxy_location="HeadOnly")
            # Serve resets its logger's level when it starts; from here on only what went wrong is of interest.
            logging.getLogger("ray.serve").setLevel(logging.WARNING)
            serve.run(application, name=APP, route_prefix="/")
            yield f"http://{host}:{port}"
        finally:
            serve.shutdown() if ours else serve.delete(APP)


def run(bundle: str = "cifar10", host: str = "127.0.0.1", port: int = 8000, **options: Any) -> None:
    """Serve ``bundle`` until Ctrl-C or SIGTERM, with the options of :func:`serving`."""
    stop = threading.Event()
    before = {}
    with serving(bundle, host, port, **options) as url:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                before[number] = signal.signal(number, lambda *_: stop.set())
        caller = "with the token" if options.get("token") is not None else "for anyone, without a token"
        print(f"raypurify serves {bundle} at {url}/v1/purify {caller}; docs at {url}/docs; Ctrl-C ends it", flush=True)
        try:
            stop.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _check_port(host: str, port: int) -> None:
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except (OSError, OverflowError) as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error}; choose another --host or --port") from error
