"""One answer of an engine on its own thread, while it is being written, for a coroutine to read."""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from llmrun.runner.piece import Piece
from llmrun.runner.sequence import FinishReason, Sequence
from llmrun.runner.stats import Stats

if TYPE_CHECKING:
    from llmrun.runner.engine_thread import EngineThread


class Stream(AsyncIterator[list[Piece]]):
    """Iterate to get all pieces that came since the last time, at least one.

    Belongs to the event loop in which it was made. One that is cancelled, or no longer referenced, gives its memory
    back within a step.
    """

    def __init__(self, thread: "EngineThread", sequence: Sequence) -> None:
        self.text = ""  # of the pieces that were delivered so far
        self.ids: list[int] = []  # of these, the one that ended the answer included
        self.finish_reason: FinishReason | None = None  # as `Generation.finish_reason`, once all is delivered
        self._thread = thread
        self._sequence = sequence
        self._loop = asyncio.get_running_loop()
        self._pieces: list[Piece] = []
        self._error: Exception | None = None
        self._reader: asyncio.Future[None] | None = None

    async def __anext__(self) -> list[Piece]:
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self.finish_reason is not None:
                raise StopAsyncIteration
            self._reader = self._loop.create_future()
            try:
                await self._reader
            except asyncio.CancelledError:  # whoever wanted the answer is gone
                self.cancel()
                raise
            finally:
                self._reader = None
        pieces, self._pieces = self._pieces, []
        return pieces

    def cancel(self) -> None:
        """End the answer here; nothing if it has ended."""
        self._sequence.cancel_asked = True
        self._thread.wake()

    def __del__(self) -> None:
        if self.finish_reason is None:
            self.cancel()

    @property
    def prompt_ids(self) -> list[int]:
        """Ids of the prompt."""
        return self._sequence.tokens[: self._sequence.n_prompt]

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended the answer."""
        return self._sequence.stop_string

    @property
    def seed(self) -> int:
        """The seed of the random numbers, for getting the same answer again."""
        return self._sequence.sampler.seed

    @property
    def stats(self) -> Stats:
        """Token counts and times; those of the answer are final once it has ended."""
        return self._sequence.stats

    def deliver(self, pieces: list[Piece], finish_reason: FinishReason | None, error: Exception | None) -> None:
        """Take what a step gave; the engine's thread has the event loop call this."""
        for piece in pieces:
            self.text += piece.text
            self.ids.append(piece.id)
        self._pieces += pieces
        if self.finish_reason is None:
            self.finish_reason, self._error = finish_reason, error
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
