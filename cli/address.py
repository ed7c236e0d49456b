"""Where a server listens, as a person writes it."""

from dataclasses import dataclass
from typing import Self

from llmrun.quant_formats.errors import UsageError

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 11434  # that of Ollama, so that its clients find the server


@dataclass(frozen=True)
class Address:
    """A host and a port, and for clients whether the connection is encrypted."""

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    scheme: str = "http"

    @classmethod
    def parse(cls, text: str, port: int = DEFAULT_PORT) -> Self:
        """Read HOST, HOST:PORT, [IPV6]:PORT or a URL; `port` is for a text without one. Raises UsageError."""
        from urllib.parse import urlsplit

        bare = text.strip()
        if _is_ipv6(bare):
            return cls(bare, port)
        scheme, separator, rest = bare.rpartition("://")
        try:
            parts = urlsplit(f"//{rest}")
            host, given, is_bare = parts.hostname, parts.port, parts.path in ("", "/") and not parts.query
        except ValueError:
            host, given, is_bare = None, None, False
        is_text = bare.isprintable() and " " not in bare
        if not host or not is_bare or not is_text or (separator and scheme not in ("http", "https")):
            raise UsageError(f"{text[:80]!r} is not an address; write it as HOST, HOST:PORT or http://HOST:PORT")
        if given is None:
            given = 443 if scheme == "https" else port
        return cls(host, given, scheme or "http")

    @property
    def url(self) -> str:
        """What a client on this machine calls: an address for all networks is replaced by that of this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"{self.scheme}://{f'[{host}]' if ':' in host else host}:{self.port}"


def _is_ipv6(text: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False
