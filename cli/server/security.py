"""Who may talk to the server: the Host and Origin of a request, and its key."""

import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmrun.cli.server.errors import Fault, error_response
from llmrun.cli.server.serve_options import ServeOptions

PUBLIC = ("/health", "/v1/health")  # for whoever only wants to know whether the server is up

# schemes of desktop programs, whose pages come with the program and not from the network
APP_SCHEMES = ("app", "file", "tauri", "vscode-webview", "vscode-file")

METHODS = b"GET, HEAD, POST, PUT, DELETE, OPTIONS"
PREFLIGHT_SECONDS = b"600"


class Guard:
    """Refuses what does not come from here, or without the key.

    A page of the network can make a browser send requests to this machine. Its Origin gives it away; and if it calls
    itself a name that it makes point to 127.0.0.1 (DNS rebinding), the Host header does. So both are looked at in every
    request, whatever its method.
    """

    def __init__(self, app: ASGIApp, options: ServeOptions) -> None:
        self.app = app
        self.hosts = {name.lower() for name in options.allow_hosts} | {options.host.lower().strip("[]")}
        self.is_open = not is_loopback(options.host)
        if self.is_open:
            self.hosts.add(socket.gethostname().lower())
        self.origins = {origin.lower().rstrip("/") for origin in options.allow_origins}
        self.keys = Keys(options.api_keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what is refused and preflights; pass on the rest."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = scope["headers"]
        origin = _one(headers, b"origin")
        fault = self._fault(scope, origin)
        if fault is None and origin is not None:
            send = _with_cors(send, origin)
            if scope["method"] == "OPTIONS" and _one(headers, b"access-control-request-method") is not None:
                await _answer_preflight(headers, send)
                return
        if fault is None:
            fault = self._key_fault(scope)
        if fault is None:
            await self.app(scope, receive, send)
            return
        challenge = {"WWW-Authenticate": "Bearer"} if fault.status == 401 else {}
        await error_response(fault, scope, challenge)(scope, receive, send)

    def _fault(self, scope: Scope, origin: str | None) -> Fault | None:
        host = _one(scope["headers"], b"host") or ""
        if not self.allows_host(host):
            return Fault(403, "this Host is not allowed here; the server can be started with --allow-host for it")
        if origin is not None and not self.allows_origin(origin):
            return Fault(403, "pages of this Origin may not use the server; it can be started with --allow-origin")
        return None

    def _key_fault(self, scope: Scope) -> Fault | None:
        if not self.keys or (scope["path"] in PUBLIC and scope["method"] in ("GET", "HEAD")):
            return None
        given = [*_bearers(scope["headers"]), *_all(scope["headers"], b"x-api-key")]
        if not given:
            return Fault(401, "an API key is needed, as Authorization: Bearer KEY or X-Api-Key: KEY")
        if not all(self.keys.has(key) for key in given):
            return Fault(401, "the API key is wrong", code="invalid_api_key")
        return None

    def allows_host(self, header: str) -> bool:
        """Whether a Host header names this machine.

        A server that listens to the network is reached by any of its addresses; only names can be made to point here.
        """
        name = _host_name(header)
        if name is None:
            return False
        return name in self.hosts or is_loopback(name) or (self.is_open and _is_address(name))

    def allows_origin(self, header: str) -> bool:
        """Whether pages of an Origin may use the server: those of this machine and its programs, and who is allowed."""
        origin = header.lower()
        if origin in self.origins or "*" in self.origins:
            return True
        try:
            parts = urlsplit(origin)
            host = parts.hostname
            _ = parts.port  # raises for one that is no number
        except ValueError:
            return False
        if parts.scheme in APP_SCHEMES:
            return True
        return parts.scheme in ("http", "https") and host is not None and is_loopback(host)


class Keys:
    """The keys that are accepted, as digests: comparing these takes as long for a wrong key as for a right one."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def has(self, key: str) -> bool:
        """Whether a key is among them."""
        given = _digest(key)
        found = False
        for digest in self._digests:  # to the end, so that the time does not say which one
            found |= hmac.compare_digest(digest, given)
        return found


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def is_loopback(host: str) -> bool:
    """Whether an address or a name, without a port, can only mean this machine.

    Names below .localhost do by RFC 6761, and some desktop programs have such an Origin.
    """
    name = host.strip("[]").lower().removesuffix(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _host_name(header: str) -> str | None:
    """The name in a Host header, without the port; None for what is no such header."""
    try:
        parts = urlsplit(f"//{header}")
        _ = parts.port
    except ValueError:
        return None
    if parts.hostname is None or parts.netloc != header or "@" in header:
        return None
    return parts.hostname.lower().removesuffix(".")


def _all(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> list[str]:
    return [value.decode("latin-1").strip() for key, value in headers if key == name]


def _one(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> str | None:
    """The value of a header; several are joined to something that nothing allows."""
    values = _all(headers, name)
    return ", ".join(values) if values else None


def _bearers(headers: Sequence[tuple[bytes, bytes]]) -> list[str]:
    fields = [value.partition(" ") for value in _all(headers, b"authorization")]
    return [key.strip() for scheme, _, key in fields if scheme.lower() == "bearer"]


def _with_cors(send: Send, origin: str) -> Send:
    """Let a page of an allowed Origin read what is sent."""

    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [
                *message.get("headers", []),
                (b"access-control-allow-origin", origin.encode("latin-1")),
                (b"access-control-expose-headers", b"x-request-id, retry-after"),
                (b"vary", b"Origin"),
            ]
        await send(message)

    return with_headers


async def _answer_preflight(headers: Sequence[tuple[bytes, bytes]], send: Send) -> None:
    wanted = _one(headers, b"access-control-request-headers") or ""
    answer = [
        (b"access-control-allow-methods", METHODS),
        (b"access-control-allow-headers", wanted.encode("latin-1")),
        (b"access-control-max-age", PREFLIGHT_SECONDS),
        (b"content-length", b"0"),
    ]
    if _one(headers, b"access-control-request-private-network") == "true":
        answer.append((b"access-control-allow-private-network", b"true"))
    await send({"type": "http.response.start", "status": 204, "headers": answer})
    await send({"type": "http.response.body", "body": b""})
