"""What a route knows of the server and of the request that it answers."""

import hashlib
import secrets
from typing import TYPE_CHECKING, Any

from fastapi import Request
from starlette.types import Scope

if TYPE_CHECKING:
    from llmrun.cli.server.serve_options import ServeOptions
    from llmrun.runner.model_host import ModelHost

_ID = "llmrun.request_id"
_NOTES = "llmrun.notes"


def host_of(request: Request) -> "ModelHost":
    """The models of this server."""
    host: ModelHost = request.app.state.host
    return host


def options_of(request: Request) -> "ServeOptions":
    """What this server was started with."""
    options: ServeOptions = request.app.state.options
    return options


def request_id(scope: Scope) -> str:
    """The id that the answer's header and the log have for a request."""
    value: str = scope.setdefault(_ID, f"req_{secrets.token_hex(12)}")
    return value


def notes_of(scope: Scope) -> dict[str, Any]:
    """What the log and the metrics say of a request besides method, path, status and time."""
    value: dict[str, Any] = scope.setdefault(_NOTES, {})
    return value


def note(request: Request, **facts: str | int | float) -> None:
    """Add to what the log says of a request, for instance model and numbers of tokens; never what was said.

    Counts until the answer has been sent to its end, so a stream may note what it has counted.
    """
    notes_of(request.scope).update(facts)


def note_tokens(request: Request, model: str, n_prompt: int, n_cached: int, n_generated: int) -> None:
    """Note the tokens of a prompt, of these those that were known, and those of its answers."""
    note(request, model=model, prompt_tokens=n_prompt, cached_tokens=n_cached, generated_tokens=n_generated)


def client_of(request: Request) -> str:
    """Whom the engine should treat as one client when it shares its steps fairly: a key, an address, a program."""
    headers, address = request.headers, request.client
    parts = (
        headers.get("authorization", "") or headers.get("x-api-key", ""),
        address.host if address else "",
        headers.get("user-agent", ""),
    )
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
