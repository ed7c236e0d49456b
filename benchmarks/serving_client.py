"""Many streaming chats at once on one thread, at little cost: the servers that are measured need the processors.

Sockets are read as they become readable, and events are counted where they are; only the last, with the usage, is
parsed as JSON.
"""

import json
import selectors
import socket
import time
from collections.abc import Callable
from typing import Any

Address = tuple[str, int]

PATIENCE = 120.0  # seconds without a byte on any stream


class ChatStream:
    """One request, and when what arrived of its answer."""

    def __init__(self, address: Address, body: dict[str, Any]) -> None:
        """Send the request; every field of `body` is as it goes to /v1/chat/completions."""
        body = {**body, "stream": True, "stream_options": {"include_usage": True}}
        text = json.dumps(body).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
        )
        self.sent_at = time.perf_counter()
        self.arrivals: list[float] = []  # of text; what comes at once counts once
        self.ended_at: float | None = None
        self.n_tokens = 0  # of the answer, as the server counts them
        self.n_prompt = 0
        self._rest = b""
        self._head = b""
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(head.encode() + text)
        self.socket.setblocking(False)

    @property
    def time_to_first_token(self) -> float:
        """Seconds."""
        return self.arrivals[0] - self.sent_at

    @property
    def gaps(self) -> list[float]:
        """Seconds from one arrival to the next."""
        return [after - before for before, after in zip(self.arrivals, self.arrivals[1:], strict=False)]

    def read(self) -> None:
        """Take what is there. Raises RuntimeError for an answer that is an error, or ends early."""
        data = self.socket.recv(1 << 16)
        now = time.perf_counter()
        if len(self._head) < 64:
            self._head += data[:64]
            if len(self._head) >= 12 and not self._head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"refused: {data.decode(errors='replace')}")
        *events, self._rest = (self._rest + data).split(b"\n\n")
        if any(b'"content":"' in event and b'"content":""' not in event for event in events):
            self.arrivals.append(now)
        for event in events:
            if b'"completion_tokens"' in event:
                usage = json.loads(event[event.index(b"data: ") + 6 :])["usage"]
                self.n_tokens, self.n_prompt = usage["completion_tokens"], usage["prompt_tokens"]
            elif b"data: [DONE]" in event:
                self.ended_at = now
                return
        if not data:
            raise RuntimeError(f"an answer broke off after {len(self.arrivals)} pieces")


class Chats:
    """Streams that are read together."""

    def __init__(self, address: Address) -> None:
        self.ended: list[ChatStream] = []
        self._address = address
        self._selector = selectors.DefaultSelector()
        self._when_ended: dict[ChatStream, Callable[[], None]] = {}

    def start(self, body: dict[str, Any], then: Callable[[], None] = lambda: None) -> ChatStream:
        """Send a request; `then` is called when its answer is complete."""
        stream = ChatStream(self._address, body)
        self._when_ended[stream] = then
        self._selector.register(stream.socket, selectors.EVENT_READ, stream)
        return stream

    def start_all(self, bodies: list[dict[str, Any]]) -> None:
        """Send requests one after the other, each when the one before it is answered."""
        if bodies:
            self.start(bodies[0], lambda: self.start_all(bodies[1:]))

    def read_until(self, is_enough: Callable[[], bool]) -> None:
        """Read until something is so, or all have ended."""
        while self._when_ended and not is_enough():
            ready = self._selector.select(PATIENCE)
            if not ready:
                raise RuntimeError(f"{len(self._when_ended)} streams say nothing for {PATIENCE:.0f} s")
            for key, _ in ready:
                stream: ChatStream = key.data
                stream.read()
                if stream.ended_at is not None:
                    self._selector.unregister(stream.socket)
                    stream.socket.close()
                    self.ended.append(stream)
                    self._when_ended.pop(stream)()

    def read_all(self) -> list[ChatStream]:
        """Read to the end of all, and return them in the order in which they ended."""
        self.read_until(lambda: False)
        return self.ended

    def close(self) -> None:
        """Leave what has not ended."""
        for stream in self._when_ended:
            self._selector.unregister(stream.socket)
            stream.socket.close()
        self._when_ended.clear()
