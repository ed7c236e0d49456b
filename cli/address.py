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
            host, given = parts.hostname, parts.port
        except ValueError:
            host, given = None, None
        if not host or (separator and scheme not in ("http", "https")) or parts.path not in ("", "/") or parts.query:
            raise UsageError(f"{text[:80]!r} is not an address; write it as HOST, HOST:PORT or http://HOST:PORT")
        secure = 443 if scheme == "https" else port
        return cls(host, secure if given is None else given, scheme or "http")

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
