"""A client of HTTP/1.1 that can behave badly: it leaves, reads slowly, or sends what is no request."""

import asyncio
import contextlib
import json
import socket
import struct
from dataclasses import dataclass
from typing import Any

Address = tuple[str, int]
PATIENCE = 240.0  # seconds without a word from the server after which it counts as hung
SLOW_BYTES = 400  # that a slow reader takes at once


@dataclass(frozen=True)
class Reply:
    """A whole answer."""

    status: int
    kind: str  # its media type
    body: bytes


class BrokenReply(Exception):
    """An answer that ended too early, or is none."""


class Connection:
    """One connection; `async with` closes it, at once and without ceremony."""

    def __init__(self, address: Address, receive_buffer: int | None = None) -> None:
        self._address = address
        self._receive_buffer = receive_buffer

    async def __aenter__(self) -> "Connection":
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if self._receive_buffer is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        self._socket.setblocking(False)
        await asyncio.get_running_loop().sock_connect(self._socket, self._address)
        # a small limit, or the reader would take in what a slow client leaves in the socket
        limit = 1 << 16 if self._receive_buffer is None else SLOW_BYTES
        self.reader, self._writer = await asyncio.open_connection(sock=self._socket, limit=limit)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    def reset(self) -> None:
        """Leave like a program that was killed: what is not read yet is answered with a reset."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def send(self, data: bytes) -> None:
        """Send bytes; a server that has closed the connection is no error, its answer says why."""
        self._writer.write(data)
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()

    async def reply(self, pause: float = 0.0) -> Reply:
        """Read one answer to its end; `pause` is for slow readers, between two small pieces.

        Raises BrokenReply for one that is cut, TimeoutError if nothing comes.
        """
        try:
            head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), PATIENCE)
            first, *lines = head.decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            kind = headers.get("content-type", "").partition(";")[0]
            return Reply(int(first.split()[1]), kind, await self._body(headers, pause))
        except (asyncio.IncompleteReadError, ConnectionError, ValueError) as error:
            raise BrokenReply(f"{type(error).__name__}: {error}") from error

    async def everything(self) -> bytes:
        """All that comes until the server closes the connection."""
        parts = []
        with contextlib.suppress(ConnectionError):
            while part := await asyncio.wait_for(self.reader.read(65536), PATIENCE):
                parts.append(part)
        return b"".join(parts)

    async def _body(self, headers: dict[str, str], pause: float) -> bytes:
        if headers.get("transfer-encoding") != "chunked":
            return await self._exactly(int(headers.get("content-length", "0")), pause)
        parts: list[bytes] = []
        while True:
            size = int(await asyncio.wait_for(self.reader.readuntil(b"\r\n"), PATIENCE), 16)
            parts.append((await self._exactly(size + 2, pause))[:-2])
            if size == 0:
                return b"".join(parts)

    async def _exactly(self, size: int, pause: float) -> bytes:
        if not pause:
            return await asyncio.wait_for(self.reader.readexactly(size), PATIENCE)
        parts: list[bytes] = []
        left = size
        while left:
            parts.append(await asyncio.wait_for(self.reader.readexactly(min(left, SLOW_BYTES)), PATIENCE))
            left -= len(parts[-1])
            await asyncio.sleep(pause)
        return b"".join(parts)


def http(method: str, path: str, body: Any = None, headers: tuple[str, ...] = (), is_last: bool = True) -> bytes:
    """The bytes of a request; a body that is not bytes is sent as JSON. `is_last` closes the connection after it."""
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers]
    if is_last:
        lines.append("Connection: close")
    if not any(line.lower().startswith(("content-length", "transfer-encoding")) for line in headers):
        lines.append(f"Content-Length: {len(data)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


async def ask(address: Address, method: str, path: str, body: Any = None, pause: float = 0.0) -> Reply:
    """Send one request on a connection of its own, and read the answer; slowly, with a pause."""
    async with Connection(address, 2048 if pause else None) as connection:
        await connection.send(http(method, path, body))
        return await connection.reply(pause)
