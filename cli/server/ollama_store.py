"""Fetching and deleting models in Ollama's API. There is no store of models of one's own making here."""

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from fastapi import HTTPException, Request
from fastapi.responses import JSONResponse, Response

from llmrun.cli.server.context import host_of
from llmrun.cli.server.errors import ApiRouter
from llmrun.cli.server.no_op import refuse_unsupported
from llmrun.cli.server.ollama_reply import line
from llmrun.cli.server.ollama_request import DeleteBody, PullBody
from llmrun.cli.server.sse import ndjson
from llmrun.quant_formats.errors import LlmrunError, MissingFile, UnknownModel, UsageError
from llmrun.runner.file_lock import FileLock
from llmrun.runner.model_host import LATEST
from llmrun.runner.registry import Entry, data_folder, entries, entry_named, pull

router = ApiRouter(family="ollama")

SECONDS_BETWEEN_LINES = 0.1
_SUCCESS = {"status": "success"}


@router.post("/api/pull")
async def pull_model(body: PullBody) -> Response:
    """Fetch a model that llmrun knows by name; one that is here already is left alone."""
    refuse_unsupported(body.model_dump(), {"insecure": (False,), "username": ("",), "password": ("",)})
    entry = _entry(body.model_name)
    pulling = Pulling(entry)
    if body.stream is not False:
        return ndjson(pulling.lines())
    async for _ in pulling.states():
        pass
    return JSONResponse(_SUCCESS)


@router.delete("/api/delete")
async def delete_model(body: DeleteBody, request: Request) -> Response:
    """Delete a model that was pulled; a file that was given at the start is its owner's."""
    host = host_of(request)
    model = host.find(body.model_name)
    entry = entries().get(model.name)
    if entry is None or model.path != entry.path:
        raise UsageError(f"{model.name} is a file that the server was started with; delete the file itself")
    await host.unload(model.name)
    await asyncio.to_thread(_delete, entry)
    return Response(status_code=200)


@router.post("/api/create", include_in_schema=False)
async def create() -> Response:
    """Not here."""
    raise HTTPException(501, "create is not supported: llmrun runs GGUF files as they are; start it with the file")


@router.post("/api/copy", include_in_schema=False)
async def copy() -> Response:
    """Not here."""
    raise HTTPException(501, "copy is not supported: a model has the one name that `llmrun list` shows")


@router.post("/api/push", include_in_schema=False)
async def push() -> Response:
    """Not here."""
    raise HTTPException(501, "push is not supported: llmrun fetches models and publishes none")


@router.head("/api/blobs/{digest}", include_in_schema=False)
@router.post("/api/blobs/{digest}", include_in_schema=False)
async def blob(digest: str) -> Response:
    """Not here."""
    raise HTTPException(501, "uploading is not supported: start llmrun with the file")


@dataclass(frozen=True)
class State:
    """How far a pull is; `total` is 0 while nobody knows."""

    stage: str
    done: float
    total: float


class Pulling:
    """A pull on a thread of its own, whose latest state is read now and then. It goes on if nobody reads."""

    def __init__(self, entry: Entry) -> None:
        self._entry = entry
        self._state: State | None = None
        self._is_over = threading.Event()
        self._error: Exception | None = None

    async def states(self) -> AsyncIterator[State]:
        """Pull; yields a state whenever there is a new one. Raises what `registry.pull` raises."""
        threading.Thread(target=self._run, name="pull", daemon=True).start()
        shown = None
        while not self._is_over.is_set():
            if self._state is not None and self._state != shown:
                shown = self._state
                yield shown
            await asyncio.sleep(SECONDS_BETWEEN_LINES)
        if self._error is not None:
            raise self._error

    async def lines(self) -> AsyncIterator[bytes]:
        """The lines of the reply."""
        yield line({"status": "pulling manifest"})
        async for state in self.states():
            yield line(self._line(state))
        yield line(_SUCCESS)

    def _line(self, state: State) -> dict[str, Any]:
        verb = "verifying" if state.stage.startswith("checking") else "pulling"
        progress = {"total": int(state.total), "completed": int(state.done)} if state.total else {}
        digest = f"sha256:{self._entry.sha256}"
        return {"status": f"{verb} {self._entry.sha256[:12]}: {state.stage}", "digest": digest} | progress

    def _run(self) -> None:
        try:
            pull(self._entry.name, lambda *state: setattr(self, "_state", State(*state)))
        except Exception as error:  # raised where the pull is waited for
            self._error = error
        finally:
            self._is_over.set()


def _entry(name: str) -> Entry:
    """The entry of a name, with or without the tag that clients add; raises UnknownModel (404)."""
    try:
        return entry_named(name if name in entries() else name.removesuffix(LATEST))
    except MissingFile as error:
        raise UnknownModel(str(error)[:200]) from error


def _delete(entry: Entry) -> None:
    """Delete the file of a model and the terms that came with it; nobody can be pulling it meanwhile."""
    try:
        with FileLock(data_folder() / f".{entry.file}.lock"):
            entry.path.unlink(missing_ok=True)
            if entry.terms_path is not None:
                entry.terms_path.unlink(missing_ok=True)
    except OSError as error:
        raise LlmrunError(f"{entry.name} could not be deleted: {error.strerror or error}") from error
