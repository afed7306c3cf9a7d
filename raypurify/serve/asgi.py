"""What stands around the routes of an ingress: ``HEAD``, answers that are given before a body has come, and a header
of all.

Most clients send all of a body before they read the answer. A connection that is closed on them is a reset to them,
one that is left open holds its place for as long as they send a byte now and then. So the rest of the body is thrown
away, within bounds, and the connection closed.
"""

import asyncio
import contextlib
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# What is on its way already is waited for so long, and keeps the connection open.
_MOMENT_S = 0.1
_REST_S, _REST_BYTES = 5.0, 256 << 20
# Rests that are thrown away at a time: Serve's proxy holds what an ingress has not taken yet, without a bound.
_AT_ONCE = 4


class Answering:
    """ASGI middleware: answers HEAD as GET, throws away what is left of a body that is not wanted, and lets browsers
    guess no type."""

    def __init__(self, app: ASGIApp):
        self.app = app
        self._at_once = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if scope["method"] == "HEAD":
            # The server sends headers alone, whatever it is given.
            scope = {**scope, "method": "GET"}
        body = _Body(scope, receive)
        closes = drains = False

        async def answer(message: Message) -> None:
            nonlocal closes, drains
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message["headers"])
                # Answers repeat what callers have sent.
                headers.setdefault("x-content-type-options", "nosniff")
                closes = "connection" in headers
                if not closes and not await body.rest(_MOMENT_S):
                    headers["connection"] = "close"
                    drains = True
            elif drains and not message.get("more_body"):
                await send({**message, "more_body": True})
                if self._at_once < _AT_ONCE:
                    self._at_once += 1
                    try:
                        await body.rest(_REST_S)
                    finally:
                        self._at_once -= 1
                message = {"type": "http.response.body"}
            await send(message)

        await self.app(scope, body.receive, answer)


class _Body:
    def __init__(self, scope: Scope, receive: Receive):
        names = {name for name, _ in scope["headers"]}
        self.over = not names & {b"content-length", b"transfer-encoding"}
        self._receive = receive
        self._left = _REST_BYTES

    async def receive(self) -> Any:
        message = await self._receive()
        self.over |= not message.get("more_body")
        return message

    async def rest(self, seconds: float) -> bool:
        """Throw away what comes within ``seconds``, up to a bound; whether that was all."""
        with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
            await asyncio.wait_for(self._throw_away(), seconds)
        return self.over

    async def _throw_away(self) -> None:
        while not self.over and self._left > 0:
            self._left -= len((await self.receive()).get("body", b""))
