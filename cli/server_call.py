"""Asking a running server something, from the command line."""

import json
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmrun.cli.address import DEFAULT_HOST, DEFAULT_PORT, Address
from llmrun.quant_formats.errors import LlmrunError, NoServer

if TYPE_CHECKING:
    from urllib.error import HTTPError

    from llmrun.cli.settings import Settings

SECONDS = 60.0  # unloading waits for the answers that are being written

ServerAddress = Annotated[
    str | None,
    typer.Option("--host", metavar="ADDRESS", help="Server to ask, HOST, HOST:PORT or URL; default: 127.0.0.1:11434."),
]


def call_server(host: str | None, path: str, body: dict[str, Any] | None = None) -> Any:
    """GET a path, or POST a body to it, and return the JSON that comes back.

    Without `host` the settings say where; the key is that of LLMRUN_API_KEY or the first of `api_key_file`. Raises
    NoServer if none answers, LlmrunError with what the server says if it refuses.
    """
    import urllib.error
    import urllib.request

    from llmrun.cli.settings import Settings

    settings = Settings.load()
    address = _address(settings, host)
    headers = {"Content-Type": "application/json", "User-Agent": "llmrun"}
    if key := _key(settings):
        headers["Authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    try:
        # without the proxies of the environment, which are for the network and not for this machine
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(urllib.request.Request(address.url + path, data, headers), timeout=SECONDS) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise LlmrunError(f"the server at {address.url} refuses: {_reason(error)}") from error
    except (OSError, ValueError) as error:
        raise NoServer(f"no llmrun server answers at {address.url}; start one with llmrun serve") from error


def _address(settings: "Settings", host: str | None) -> Address:
    port: Any = settings.get("port") or DEFAULT_PORT
    return Address.parse(host or str(settings.get("host") or DEFAULT_HOST), DEFAULT_PORT if host else port)


def _key(settings: "Settings") -> str | None:
    from llmrun.cli.serve import KEY_VARIABLE, read_keys

    if key := os.environ.get(KEY_VARIABLE):
        return key
    file = settings.get("api_key_file")
    return read_keys([], str(file))[0] if file else None


def _reason(error: "HTTPError") -> str:
    try:
        return str(json.load(error)["error"])
    except (ValueError, KeyError, TypeError, OSError):
        return f"{error.code} {error.reason}"
