"""The server with routes of the tests' own, in a thread; as a program it is a server that signals can stop.

`python framed_server.py GRACE` serves on a free port, which it prints, until a signal comes.
"""

import asyncio
import contextlib
import http.client
import json
import socket
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict

from llmrun.cli.address import Address
from llmrun.cli.server.app import make_app
from llmrun.cli.server.context import note
from llmrun.cli.server.errors import ApiRouter, BadRequest, Family
from llmrun.cli.server.http_server import HttpServer, listen, run_server
from llmrun.cli.server.serve_options import ServeOptions
from llmrun.cli.server.sse import ndjson, sse
from llmrun.quant_formats.errors import CorruptFile, OutOfMemory, PromptTooLong, QueueFull, TemplateError, UsageError
from llmrun.runner.model_host import ModelHost

SECRET = "/home/somebody/models/secret.gguf"
RAISED: dict[str, Exception] = {
    "usage": UsageError("top_k must be 0 or more, not -1"),
    "field": BadRequest("n must be 1", param="n"),
    "long": PromptTooLong("the prompt has 9 tokens", n_prompt=9, n_ctx=8),
    "queue": QueueFull("512 requests are waiting already; ask again later"),
    "memory": OutOfMemory(f"{SECRET} needs 5 GiB"),
    "template": TemplateError("roles must alternate"),
    "corrupt": CorruptFile(f"{SECRET} is damaged"),
    "bug": ZeroDivisionError(SECRET),
}
FAMILIES: dict[str, Family] = {"/v1": "openai", "/api": "ollama", "/v1/messages": "anthropic", "/llama": "llama"}

ended: list[str] = []
"""How each stream ended: "whole" or "cut"."""


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")
    text: str
    number: int = 0
    inner: dict[str, Any] = {}


def routers() -> Iterator[Any]:
    for prefix, family in FAMILIES.items():
        yield _router(prefix, family)


def _router(prefix: str, family: Family) -> Any:
    router = ApiRouter(family, prefix=prefix)

    @router.post("/t-echo")
    async def echo(request: Request, body: Body) -> dict[str, Any]:
        note(request, model="m", prompt_tokens=len(body.text))
        return body.model_dump()

    @router.get("/t-raise/{name}")
    async def fail(name: str) -> None:
        raise RAISED[name]

    @router.get("/t-stream")
    async def stream(n: int = 3, wait: float = 0.0, size: int = 1, first: float = 0.0) -> StreamingResponse:
        await asyncio.sleep(first)
        return (ndjson if family == "ollama" else sse)(_events(n, wait, size))

    return router


async def _events(n: int, wait: float, size: int) -> AsyncIterator[bytes]:
    try:
        for i in range(n):
            await asyncio.sleep(wait)
            yield b'data: {"i": %d, "x": "%s"}\n\n' % (i, b"x" * size)
        ended.append("whole")
    except BaseException:
        ended.append("cut")
        raise


@dataclass
class Framed:
    port: int
    app: FastAPI
    server: HttpServer
    loop: asyncio.AbstractEventLoop

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any, http.client.HTTPResponse]:
        """Status, parsed body and the whole answer of one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            data = body if body is None or isinstance(body, bytes) else json.dumps(body)
            connection.request(method, path, data, dict(headers or {}))
            answer = connection.getresponse()
            text = answer.read()
            is_json = "json" in answer.getheader("content-type", "") and "ndjson" not in str(answer.headers)
            return answer.status, json.loads(text) if is_json and text else text.decode(), answer
        finally:
            connection.close()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def raw(self, data: bytes) -> bytes:
        """All that comes back for some bytes, until the server closes the connection."""
        with self.connect() as connection:
            connection.sendall(data)
            return read_all(connection)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.server.stop)


def read_all(connection: socket.socket) -> bytes:
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


@contextlib.contextmanager
def framed(options: ServeOptions | None = None, host: ModelHost | None = None) -> Iterator[Framed]:
    options = options or ServeOptions(grace=0)
    up: threading.Event = threading.Event()
    made: list[Framed] = []

    async def main() -> None:
        app = make_app(host or ModelHost(), options)
        for router in routers():
            app.include_router(router)
        listener = listen(Address(port=0))
        server = HttpServer(app, options)
        made.append(Framed(listener.getsockname()[1], app, server, asyncio.get_running_loop()))

        async def prepare() -> None:
            up.set()

        await run_server(server, listener, prepare)

    thread = threading.Thread(target=lambda: asyncio.run(main()), name="framed")
    thread.start()
    assert up.wait(20), "the server did not start"
    try:
        yield made[0]
    finally:
        made[0].stop()
        thread.join(30)
        assert not thread.is_alive(), "the server did not stop"


async def _serve(grace: float) -> None:
    app = make_app(ModelHost(), ServeOptions(grace=grace))
    for router in routers():
        app.include_router(router)
    listener = listen(Address(port=0))

    async def prepare() -> None:
        print(listener.getsockname()[1], flush=True)

    await run_server(HttpServer(app, ServeOptions(grace=grace)), listener, prepare)


if __name__ == "__main__":
    asyncio.run(_serve(float(sys.argv[1])))
