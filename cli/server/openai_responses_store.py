"""Responses that can be fetched, continued and cancelled later; in the memory of the server, and only there."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llmrun.cli.server.json_text import compact
from llmrun.cli.server.openai_responses_items import Item

MAX_RESPONSES = 1000
MAX_BYTES = 64 << 20


@dataclass
class StoredResponse:
    """A response, what it was made from, and how it can be stopped while it is being written."""

    response: dict[str, Any]
    input: tuple[Item, ...]  # the conversation before it, that of previous responses included
    cancel: Callable[[], None] | None = None
    n_bytes: int = 0  # as JSON, once it has ended

    @property
    def conversation(self) -> tuple[Item, ...]:
        """What a next response comes after."""
        return (*self.input, *self.response["output"])


class ResponseStore:
    """Keeps the responses used last, up to a number and a size; the newest always stays.

    A response has the whole conversation before it, and counts with all of that, so it outlives those it continued.
    """

    def __init__(self, max_responses: int = MAX_RESPONSES, max_bytes: int = MAX_BYTES) -> None:
        self._max_responses, self._max_bytes = max_responses, max_bytes
        self._kept: OrderedDict[str, StoredResponse] = OrderedDict()  # used last comes last
        self._running: dict[str, StoredResponse] = {}
        self.n_bytes = 0

    def __len__(self) -> int:
        return len(self._kept) + len(self._running)

    def begin(self, stored: StoredResponse) -> None:
        """Add a response that is being written."""
        self._running[stored.response["id"]] = stored

    def finish(self, stored: StoredResponse) -> None:
        """Keep a response that has ended, unless it was deleted meanwhile."""
        if self._running.pop(stored.response["id"], None) is None:
            return
        stored.cancel = None
        stored.n_bytes = len(compact([stored.response, *stored.input]).encode())
        self._kept[stored.response["id"]] = stored
        self.n_bytes += stored.n_bytes
        while len(self._kept) > 1 and (len(self._kept) > self._max_responses or self.n_bytes > self._max_bytes):
            self.n_bytes -= self._kept.popitem(last=False)[1].n_bytes

    def get(self, response_id: str) -> StoredResponse | None:
        """A response that is kept or being written."""
        if response_id in self._kept:
            self._kept.move_to_end(response_id)
        return self._kept.get(response_id) or self._running.get(response_id)

    def delete(self, response_id: str) -> bool:
        """Forget a response, and stop writing it; returns whether there was one."""
        stored = self._kept.pop(response_id, None)
        if stored is not None:
            self.n_bytes -= stored.n_bytes
            return True
        stored = self._running.pop(response_id, None)
        if stored is not None and stored.cancel is not None:
            stored.cancel()
        return stored is not None
