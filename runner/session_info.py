"""What there is to say about a conversation without opening it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class SessionInfo:
    """A row of `llmrun sessions list`."""

    id: str  # eight letters and digits, none of which looks like another
    name: str | None  # given by the user, unique
    title: str  # first words of the first user message; "" before there is one
    model: str  # as it was named on the command line
    system: str | None
    settings: Mapping[str, Any]  # what the command line wants to find again, such as sampling values
    created: datetime  # with time zone
    updated: datetime
    n_messages: int
    n_tokens: int  # of context in use after the last turn
    fingerprint: str  # of the engine that computed them; "" before the first turn

    @property
    def label(self) -> str:
        """The name, or else the id."""
        return self.name or self.id
