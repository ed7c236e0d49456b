"""One connection of a client."""

import asyncio
from typing import Any

import h11
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

HEAD_SECONDS = 30.0  # for the first bytes of a connection, and for all of the lines before a body


class Connection(H11Protocol):
    """uvicorn's, with a limit on the time that the head of a request takes, and `abort` in the state of each request.

    Without the limit, clients that say nothing would hold connections until there are none left.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, {**app_state, "abort": self.abort}, _loop)
        self._head_limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for a request."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came, and wait for the rest if it is the beginning of a head."""
        super().data_received(data)
        if self.transport.is_closing() or self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self._head_limit is None:
            self._await_head()

    def abort(self) -> None:
        """Drop the connection, with all that is not sent yet."""
        self.transport.abort()

    def _await_head(self) -> None:
        self._head_limit = self.loop.call_later(HEAD_SECONDS, self.abort)

    def _stop_waiting(self) -> None:
        if self._head_limit is not None:
            self._head_limit.cancel()
            self._head_limit = None
