"""Ctrl-C while an answer is streamed: the first one asks for an end, the second one insists."""

import signal
from collections.abc import Callable
from types import FrameType, TracebackType


class Interrupt:
    """`with Interrupt(generation.cancel):` calls it at the first Ctrl-C, so that the step in progress is completed.

    The second Ctrl-C raises KeyboardInterrupt, for a step that does not end.
    """

    def __init__(self, cancel: Callable[[], None]) -> None:
        self._cancel = cancel
        self._is_asked = False

    def __enter__(self) -> "Interrupt":
        self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self._is_asked:
            raise KeyboardInterrupt
        self._is_asked = True
        self._cancel()
