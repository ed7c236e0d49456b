"""A real server in a thread of this process, on a real port, for real clients."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import openai
import uvicorn

from llmrun.cli.server.app import make_app
from llmrun.cli.server.serve_options import ServeOptions
from llmrun.runner.model_host import HostOptions, ModelHost


@contextlib.contextmanager
def openai_client(files: Mapping[str, Path], **parts: Any) -> Iterator[openai.OpenAI]:
    """OpenAI's client of a server of these files; `parts` are as in `serving`."""
    with (
        serving(files, **parts) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


@contextlib.contextmanager
def serving(
    files: Mapping[str, Path] | None = None,
    host: HostOptions | None = None,
    options: ServeOptions | None = None,
    **parts: Any,
) -> Iterator[str]:
    """Serve the models of these files until the block ends; gives the address, without a slash at its end.

    `parts` are what else `ModelHost` takes: `load` and `plan` for models without weights.
    """
    started = threading.Event()
    server: uvicorn.Server | None = None
    port = 0

    async def serve() -> None:
        nonlocal server, port
        app = make_app(ModelHost(files or {}, host, **parts), options)
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=5))
        running = asyncio.create_task(server.serve())
        while not server.started and not running.done():
            await asyncio.sleep(0.01)
        if server.started:
            port = server.servers[0].sockets[0].getsockname()[1]
        started.set()
        await running

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="server")
    thread.start()
    started.wait(30)
    assert server is not None
    assert port, "the server did not start"
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(60)
