"""The use of a loaded model."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from llmrun.runner.loaded_model import LoadedModel

if TYPE_CHECKING:
    from types import TracebackType


class Lease:
    """The use of a loaded model: it stays loaded until `release`, which may be called more than once."""

    def __init__(self, model: LoadedModel, give_back: Callable[[], None]) -> None:
        self.model = model
        self._give_back: Callable[[], None] | None = give_back
        self._loop = asyncio.get_running_loop()

    def release(self) -> None:
        """Give it back; its time to stay loaded begins anew. May be called on any thread, and by a finaliser."""
        give_back, self._give_back = self._give_back, None
        if give_back is None:
            return
        if _is_running(self._loop):
            give_back()
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(give_back)

    def __del__(self) -> None:
        self.release()  # a stream that nobody began to read never comes to its end

    async def __aenter__(self) -> LoadedModel:
        return self.model

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        self.release()


def _is_running(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether this is code that an event loop runs."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
