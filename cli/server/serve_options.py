"""What a server is started with."""

from dataclasses import dataclass

from llmrun.cli.address import DEFAULT_HOST

MIB = 1 << 20


@dataclass(frozen=True)
class ServeOptions:
    """Who may do what, and how much of it; times are in seconds.

    allow_origins: besides those that are always allowed, such as "https://chat.example"; "*" allows every page.
    allow_hosts: names in a Host header besides those of the loopback and `host`.
    timeout: the longest that a request may take, waiting included; None is for ever.
    stall: how long a client may leave a stream unread, or a body unfinished, before it is cut off.
    grace: how long running requests may go on once the server is asked to stop.
    """

    host: str = DEFAULT_HOST
    api_keys: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    allow_hosts: tuple[str, ...] = ()
    max_body: int = 32 * MIB  # bytes
    timeout: float | None = None
    stall: float = 30.0
    grace: float = 30.0
    metrics: bool = True
    log_prompts: bool = False
