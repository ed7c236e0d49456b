"""Where llama-server ends an answer for an editor: at a line that is indented too little, or when time is up."""

import time
from collections.abc import Callable


class LineLimits:
    """Passes the text of an answer on until one of its lines must not belong to it any more.

    n_indent: white space that every line after the first begins with, at least; the answer ends where one has less. The
        white space itself still belongs to the answer. 0 is no limit.
    seconds: time from the first text on after which the answer ends, once it has a line break; 0 is no limit.
    """

    def __init__(self, n_indent: int = 0, seconds: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._n_indent = n_indent
        self._seconds = seconds
        self._clock = clock
        self._t_first: float | None = None
        self._indent: int | None = None  # white space so far of a line that has had nothing else
        self.has_line_break = False
        self.is_over = False

    def push(self, text: str) -> str:
        """Take more text and return what belongs to the answer; after the end nothing does."""
        if self.is_over or not text:
            return ""
        if self._t_first is None:
            self._t_first = self._clock()
        text = self._indented(text) if self._n_indent else text
        self.has_line_break |= "\n" in text
        if self._seconds and self.has_line_break and self._clock() - self._t_first > self._seconds:
            self.is_over = True
        return text

    def _indented(self, text: str) -> str:
        for i, character in enumerate(text):
            if self._indent is not None:
                if character in " \t":
                    self._indent += 1
                elif self._indent < self._n_indent:
                    self.is_over = True
                    return text[:i]
                else:
                    self._indent = None
            if character == "\n":
                self._indent = 0
        return text
