"""The HTTP server around the application: its socket, its signals, and the order in which it starts and stops."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from llmrun.cli.address import Address
from llmrun.cli.server.connection import Connection
from llmrun.cli.server.lifecycle import LAST_WORDS, Lifecycle
from llmrun.cli.server.serve_options import ServeOptions
from llmrun.quant_formats.errors import AddressTaken

KEEP_ALIVE_SECONDS = 75  # longer than clients keep idle connections, so that it is they who close
BACKLOG = 1024  # connections that the system holds until they are accepted
HURRY_SECONDS = 3.0  # after the second signal, whatever is still going on


def listen(address: Address) -> socket.socket:
    """Take the address. Raises AddressTaken if the system says no, for instance because another program has it."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            if sys.platform == "win32":  # where SO_REUSEADDR would let two programs have one port
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
            else:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(place)
            listener.listen(BACKLOG)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise AddressTaken(
            f"cannot listen at {address.host} port {address.port}: {error.strerror or error}. Another program may have "
            "the port, such as Ollama or another llmrun; stop it or choose one with --port"
        ) from error
    listener.setblocking(False)
    return listener


class HttpServer(uvicorn.Server):
    """uvicorn's, but a signal lets the running requests end first.

    First signal: no new requests, those that run get `grace` seconds. Second: they end now, and the process with them.
    """

    def __init__(self, app: FastAPI, options: ServeOptions) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Connection,
                ws="none",
                loop="asyncio",
                lifespan="on",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=int(LAST_WORDS),
            )
        )
        self.signal: int | None = None
        """The one that the server was asked to stop with."""
        self.is_up = asyncio.Event()
        self.lifecycle: Lifecycle = app.state.lifecycle
        self._grace = options.grace
        self._stopping: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to take connections."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self.is_up.set()

    def stop(self) -> None:
        """Begin to stop; nothing if it has begun."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop())

    async def _stop(self) -> None:
        await self.lifecycle.stop(self._grace)
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal, on the main thread, in the middle of whatever it does."""
        if self.signal is None:
            self.signal = sig
            self._loop.call_soon_threadsafe(self.stop)
        else:
            self._loop.call_soon_threadsafe(self.lifecycle.hurry)
            # a model that is being loaded, or a long step, would be waited for
            timer = threading.Timer(HURRY_SECONDS, os._exit, [128 + sig])
            timer.daemon = True
            timer.start()


async def run_server(server: HttpServer, listener: socket.socket, prepare: Callable[[], Awaitable[None]]) -> None:
    """Serve until a signal comes, or `stop` is called.

    prepare: runs while the server answers already, that it is loading; what it raises stops the server and is raised.
    Raises KeyboardInterrupt after a Ctrl-C, when everything has ended in order.
    """
    server.lifecycle.state = "loading"
    serving = asyncio.create_task(server.serve([listener]))
    preparing = asyncio.create_task(_prepare(server, prepare))
    await asyncio.wait([serving, preparing], return_when=asyncio.FIRST_COMPLETED)
    if not preparing.done():
        preparing.cancel()
    elif preparing.exception() is not None:
        server.should_exit = True
    await serving
    with contextlib.suppress(asyncio.CancelledError):
        await preparing
    if server.signal == signal.SIGINT:
        raise KeyboardInterrupt


async def _prepare(server: HttpServer, prepare: Callable[[], Awaitable[None]]) -> None:
    await server.is_up.wait()
    await prepare()
    if server.lifecycle.state == "loading":
        server.lifecycle.state = "ready"
