"""Ctrl-C while an answer is streamed: the first one asks for a stop between two tokens, the second one insists."""

import signal
from types import FrameType, TracebackType


class Interrupt:
    """`with Interrupt() as interrupt:` and look at `interrupt.is_asked` between tokens.

    A KeyboardInterrupt in the middle of a step could leave the engine with half of it done; a second Ctrl-C raises one
    all the same, for a step that does not end.
    """

    def __init__(self) -> None:
        self.is_asked = False

    def __enter__(self) -> "Interrupt":
        self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self.is_asked:
            raise KeyboardInterrupt
        self.is_asked = True
