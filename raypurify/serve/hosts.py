"""By which names an endpoint is called that asks for no token: by those of this machine, and those it was told.

A page elsewhere whose name its owner lets lead to this machine (DNS rebinding) is of the endpoint's own origin to a
browser, so that it may send anything and read the answers. What it cannot change is the name that the browser calls by.
"""

import inspect
import ipaddress
import re
from collections.abc import Collection

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from raypurify.serve.front import Front, front
from raypurify.serve.http import Refusal, refuse

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:/@]+)(:[0-9]{0,5})?", re.IGNORECASE)
# As much of a name as is repeated.
_SHOWN = 100


class KnownHosts:
    """ASGI middleware: refuses with 421 what an endpoint without a token is asked by a name that is not its own."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http" and not (settings := (await _front(scope)).settings).token_sha256:
            hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
            listening = (scope.get("server") or ("",))[0]
            if not hosts or not all(known(host, (*settings.known_hosts, listening)) for host in hosts):
                answer = await refuse(Request(scope), _unknown(hosts))
                return await answer(scope, receive, send)
        await self.app(scope, receive, send)


def known(host: str, names: Collection[str]) -> bool:
    """Whether a ``Host`` header names this machine's loopback, or one of ``names``, with any port or none.

    >>> [known(host, ["Purify.example.org"]) for host in ("127.0.0.1:8000", "[::1]", "purify.example.org", "evil.org")]
    [True, True, True, False]
    """
    found = _HOST.fullmatch(host.strip())
    if not found:
        return False
    name = found[1].strip("[]").lower()
    if name == "localhost" or name in {one.strip("[]").lower() for one in names}:
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


async def _front(scope: Scope) -> Front:
    """The front of this ingress, as routes get it."""
    found = scope["app"].dependency_overrides.get(front, front)()
    return await found if inspect.isawaitable(found) else found


def _unknown(hosts: list[str]) -> Refusal:
    called = ascii(", ".join(hosts)[:_SHOWN])
    message = (
        f"this endpoint asks for no token and is not called {called}; call it by 127.0.0.1 or localhost, or start it "
        "with a token, or with this name as --known-host (known_hosts)"
    )
    return Refusal(421, "unknown-host", message)
