"""How much a client may send, and how long it may leave the server waiting."""

import asyncio
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmrun.cli.server.errors import Fault, error_response
from llmrun.cli.server.serve_options import ServeOptions

BODIES = 8  # of the greatest size may be in memory at once


class ClientStalled(Exception):
    """A client leaves what is sent to it unread; its connection is cut."""


class Limits:
    """Reads bodies up to a size before anything else runs, and cuts clients off that stop reading."""

    def __init__(self, app: ASGIApp, options: ServeOptions) -> None:
        self.app = app
        self.options = options
        self._n_held = 0  # bytes of bodies that are being read or answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body, pass it on in one piece, and watch over the answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        held = _Body()
        try:
            fault = await self._read(scope, receive, held)
            if fault is not None:
                await error_response(fault, scope, {"Connection": "close"})(scope, receive, send)
            elif held.is_whole:
                await self.app(scope, held.replay(receive), self._watched(scope, send))
        finally:
            self._n_held -= held.size

    async def _read(self, scope: Scope, receive: Receive, held: "_Body") -> Fault | None:
        """Read all of a body into `held`, unless the client leaves; the fault if it is too much or does not come."""
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        most = self.options.max_body
        too_large = Fault(413, f"the body is larger than the {most} bytes that this server takes")
        if int(announced) > most:  # the parser of HTTP has made sure that it is a number
            return too_large
        while not held.is_whole:
            try:
                async with asyncio.timeout(self.options.stall):
                    message = await receive()
            except TimeoutError:
                return Fault(408, "the rest of the body did not come")
            if message["type"] == "http.disconnect":
                return None
            held.add(message)
            self._n_held += len(message["body"])
            if held.size > most:
                return too_large
            if self._n_held > BODIES * most:
                return Fault(503, "too many large bodies at once; try again later", retry_after=1)
        return None

    def _watched(self, scope: Scope, send: Send) -> Send:
        """Send, but cut a client off that reads nothing for too long."""
        stall = self.options.stall
        abort: Callable[[], None] | None = scope.get("state", {}).get("abort")

        async def watched(message: Message) -> None:
            try:
                async with asyncio.timeout(stall):
                    await send(message)
            except TimeoutError:
                if abort is not None:
                    abort()
                raise ClientStalled(f"read nothing for {stall:g} seconds") from None

        return watched


class _Body:
    """The body of one request, as far as it has come."""

    def __init__(self) -> None:
        self.size = 0  # bytes
        self.is_whole = False
        self._parts: list[bytes] = []

    def add(self, message: Message) -> None:
        """Take the next part."""
        self._parts.append(message["body"])
        self.size += len(message["body"])
        self.is_whole = not message.get("more_body", False)

    def replay(self, receive: Receive) -> Receive:
        """Give the body once, in one piece, then what else comes: that the client has left."""

        async def replay() -> Message:
            if not self._parts:
                return await receive()
            body = b"".join(self._parts)
            self._parts.clear()
            return {"type": "http.request", "body": body, "more_body": False}

        return replay
