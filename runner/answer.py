"""An answer within a chat."""

from typing import TYPE_CHECKING

from llmrun.runner.generation import Generation
from llmrun.runner.piece import Piece

if TYPE_CHECKING:
    from llmrun.runner.chat import Chat


class Answer(Generation):
    """A generation whose chat makes room for it while it is read, and takes it over when it ends.

    Where the answer cannot be recorded, reading on after its last piece raises: DiskFull, for example.
    """

    def __init__(self, chat: "Chat", generation: Generation) -> None:
        super().__init__(generation._engine, generation._sequence)
        self._chat = chat
        self._generation = generation  # ends the sequence when it is collected

    def __next__(self) -> Piece:
        if self.finish_reason is None and not self._sequence.pieces:
            self._chat.make_room(self)
        try:
            piece = super().__next__()
        except Exception:  # StopIteration, or an error of this answer
            self._chat.end_answer(self)
            raise
        self._chat.after_step()
        return piece

    @property
    def is_about_to_fill(self) -> bool:
        """Whether the next id fills the context, and ends the answer for no other reason."""
        sequence = self._sequence
        is_last = sequence.stats.n_generated + 1 == sequence.params.max_tokens
        return len(sequence.tokens) + 1 >= sequence.n_ctx and not is_last

    def rebase(self, prompt: list[int]) -> None:
        """Go on with the same answer after another prompt."""
        self._engine.rebase(self._sequence, prompt)
