"""The requests that are being answered, and ending them: at their time limit, and when the server stops."""

import asyncio
import contextlib
import json
from typing import Literal

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmrun.cli.server.context import request_id
from llmrun.cli.server.errors import error_body, error_response, family_of, fault_of
from llmrun.cli.server.security import PUBLIC
from llmrun.cli.server.serve_options import ServeOptions
from llmrun.quant_formats.errors import LlmrunError, Stopping, TimedOut

State = Literal["loading", "ready", "stopping"]

LAST_WORDS = 2.0  # seconds for telling the clients of requests that are cut short


class Lifecycle:
    """What the server is doing: loading its first models, ready, or stopping. Belongs to the thread of the server."""

    def __init__(self) -> None:
        self.state: State = "ready"
        self._running: set[_Running] = set()
        self._changed = asyncio.Event()
        self._is_hurried = False

    @property
    def n_running(self) -> int:
        """Number of requests that are being answered."""
        return len(self._running)

    async def stop(self, grace: float) -> None:
        """Take no more requests, let those that run go on for `grace` seconds, then end them with an error."""
        self.state = "stopping"
        await self._until_idle(grace)
        self.end_all(Stopping("the server is shutting down; the answer is not complete"))
        await self._until_idle(LAST_WORDS)

    def hurry(self) -> None:
        """Do not wait any longer for what runs."""
        self._is_hurried = True
        self._changed.set()

    def end_all(self, error: LlmrunError) -> None:
        """End all requests that are being answered, each with this error."""
        for running in self._running:
            running.end(error)

    def enter(self, running: "_Running") -> None:
        """Count a request."""
        self._running.add(running)

    def leave(self, running: "_Running") -> None:
        """Count it no longer."""
        self._running.discard(running)
        self._changed.set()

    async def _until_idle(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._running and not self._is_hurried:
                    self._changed.clear()
                    await self._changed.wait()


class _Running:
    """One request that is being answered."""

    def __init__(self, limit: asyncio.Timeout, error: LlmrunError) -> None:
        self.limit = limit
        self.error = error  # what it ends with at its limit

    def end(self, error: LlmrunError) -> None:
        """End it now."""
        self.error = error
        if not self.limit.expired():
            self.limit.reschedule(asyncio.get_running_loop().time())


class InFlight:
    """Keeps the requests that are being answered, and tells the client of one that is cut short.

    A stream that has begun ends with the error event of its API, so that no client takes half an answer for a whole.
    """

    def __init__(self, app: ASGIApp, options: ServeOptions, lifecycle: Lifecycle) -> None:
        self.app = app
        self.options = options
        self.lifecycle = lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer within the limits, or with an error."""
        if scope["type"] != "http" or scope["path"] in PUBLIC:
            await self.app(scope, receive, send)
            return
        answer = _Answer(scope, send)
        if self.lifecycle.state == "stopping":
            await answer.end(Stopping("the server is shutting down"), receive)
            return
        timeout = self.options.timeout
        try:
            async with asyncio.timeout(timeout) as limit:
                running = _Running(limit, TimedOut(f"no answer within the {timeout or 0:g} seconds of this server"))
                self.lifecycle.enter(running)
                await self.app(scope, receive, answer.send)
        except TimeoutError:
            if not limit.expired():
                raise
            await answer.end(running.error, receive)
        finally:
            self.lifecycle.leave(running)


class _Answer:
    """How far the answer to one request has got."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope, self._send = scope, send
        self._kind: bytes | None = None  # its media type, once it has begun
        self._is_complete = False

    async def send(self, message: Message) -> None:
        """Pass on what the route sends."""
        if message["type"] == "http.response.start":
            kind = next((value for name, value in message["headers"] if name.lower() == b"content-type"), b"")
            self._kind = kind.split(b";")[0].strip().lower()
        elif not message.get("more_body", False):
            self._is_complete = True
        await self._send(message)

    async def end(self, error: LlmrunError, receive: Receive) -> None:
        """Say that it ends here, in the way that is left."""
        if self._kind is None:
            fault = fault_of(error, request_id(self._scope))
            await error_response(fault, self._scope, {"Connection": "close"})(self._scope, receive, self._send)
        elif not self._is_complete:
            event = error_event(self._kind, error, self._scope)
            if event is None:
                raise error  # an answer of known length: what is missing shows when the connection is cut
            await self._send({"type": "http.response.body", "body": event, "more_body": True})
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})


def error_event(kind: bytes, error: Exception, scope: Scope) -> bytes | None:
    """The last event of a stream of a media type that ends with an error; None if the type is none of a stream."""
    text = json.dumps(error_body(error, scope), separators=(",", ":"), ensure_ascii=False).encode()
    if kind == b"application/x-ndjson":
        return text + b"\n"
    if kind == b"text/event-stream":
        name = b"event: error\n" if family_of(scope) == "anthropic" else b""
        return name + b"data: " + text + b"\n\n"
    return None
