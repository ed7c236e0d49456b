"""One answer, while it is being written."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from llmrun.runner.piece import Piece
from llmrun.runner.sequence import FinishReason, Sequence
from llmrun.runner.stats import Stats

if TYPE_CHECKING:
    from llmrun.runner.engine import Engine


class Generation(Iterator[Piece]):
    """Iterate to get the pieces; each `next` runs steps of the engine until there is one.

    Several generations of one engine share its steps: reading one also carries the others forward. One that is
    cancelled, or no longer referenced, gives its memory back.
    """

    def __init__(self, engine: "Engine", sequence: Sequence) -> None:
        self._engine = engine
        self._sequence = sequence

    def __next__(self) -> Piece:
        sequence = self._sequence
        while not sequence.pieces:
            if sequence.error is not None:
                raise sequence.error
            if sequence.finish_reason is not None:
                raise StopIteration
            try:
                self._engine.step()
            except BaseException:  # Ctrl-C above all: what was said so far stays
                self.cancel()
                raise
        return sequence.pieces.popleft()

    def cancel(self) -> None:
        """End the answer here, unless it has ended; nothing if it has. May be called from a signal handler."""
        self._sequence.cancel_asked = True
        self._engine.drop_ended()

    def __del__(self) -> None:
        # only a note for the next step: the garbage collector may be running in the middle of one
        self._sequence.cancel_asked = True

    @property
    def text(self) -> str:
        """The answer so far."""
        return self._sequence.text

    @property
    def ids(self) -> list[int]:
        """Ids of the answer so far, the one that ended it included."""
        return self._sequence.answer

    @property
    def prompt_ids(self) -> list[int]:
        """Ids of the prompt."""
        return self._sequence.tokens[: self._sequence.n_prompt]

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the answer ended, None while it goes on.

        "stop": the model ended it, or a stop string came. "length": `max_tokens`. "context": the context is full.
        "cancelled". "error": reading on raises it.
        """
        return self._sequence.finish_reason

    @property
    def seed(self) -> int:
        """The seed of the random numbers, for getting the same answer again."""
        return self._sequence.sampler.seed

    @property
    def stats(self) -> Stats:
        """Token counts and times so far."""
        return self._sequence.stats
