"""Answers that come piece by piece: server-sent events, and JSON lines."""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from llmrun.cli.server.lifecycle import error_event
from llmrun.cli.server.logs import log_error
from llmrun.quant_formats.errors import LlmrunError

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # a proxy must not collect events


def sse(events: AsyncIterator[bytes]) -> StreamingResponse:
    """Send server-sent events; each item is written at once and may hold several whole ones."""
    return _EventStream(events, media_type="text/event-stream", headers=HEADERS)


def ndjson(lines: AsyncIterator[bytes]) -> StreamingResponse:
    """Send JSON lines; each item is written at once and may hold several whole ones."""
    return _EventStream(lines, media_type="application/x-ndjson", headers=HEADERS)


class _EventStream(StreamingResponse):
    """Closes its events whatever happens, and ends with the error event of its API if they raise."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self.media_type is not None
        source: Any = self.body_iterator
        events = self.body_iterator = _until_error(source, self.media_type.encode(), scope)
        try:
            await super().__call__(scope, receive, send)
        finally:  # the source by itself, too: who left before the first event never started ours
            await events.aclose()
            if hasattr(source, "aclose"):
                await source.aclose()


async def _until_error(events: Any, kind: bytes, scope: Scope) -> AsyncGenerator[bytes, None]:
    try:
        async for event in events:
            yield event
    except LlmrunError as error:
        log_error(error, scope)
        last = error_event(kind, error, scope)
        assert last is not None, "both kinds are streams"
        yield last
