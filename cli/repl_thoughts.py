"""Thoughts on the screen: dimmed and beside a bar, or folded to one line."""

import time
from typing import Literal, get_args

from llmrun.cli.markdown_text import Row, count_characters, drop_characters, printable, wrap

Mode = Literal["show", "fold", "hide"]
MODES = get_args(Mode)
BAR: Row = [("│ ", ("border",))]


class Thoughts:
    """The thoughts of one answer; gives rows as MarkdownStream does."""

    def __init__(self, width: int, mode: Mode) -> None:
        self.width = width
        self.mode = mode
        self.text = ""
        self.n_tokens = 0
        self._line = ""  # the last one, as far as it is not settled
        self._skip = 0  # characters of it that are on the screen for good
        self._started = time.monotonic()
        self._seconds: float | None = None  # from the first thought to the end

    def feed(self, text: str) -> list[Row]:
        """Take the next piece; returns the rows that became settled with it."""
        self.text += text
        if self.mode != "show":
            return []
        *lines, last = (self._line + printable(text)).split("\n")
        rows: list[Row] = []
        for line in lines:
            if line or rows or self.text.strip():
                rows += self._rows(line)
            self._skip = 0
        self._line = last if self.text.strip() else ""
        return rows

    def open_rows(self) -> list[Row]:
        """The rows that may still change."""
        if self.mode == "fold":
            return [[(f"thinking… {self._measure()}", ("thought",))]]
        return self._rows(self._line) if self.mode == "show" and self._line.strip() else []

    def finish(self) -> list[Row]:
        """The last rows and the line that sums the thoughts up."""
        if self.mode == "hide" or not self.text.strip():
            return []
        self._seconds = time.monotonic() - self._started
        rows = self.open_rows() if self.mode == "show" else []
        return [*rows, [(self.summary, ("thought",))], []]

    @property
    def summary(self) -> str:
        """How long it took."""
        return f"thought for {self._measure()}"

    def resize(self, width: int, keeps_open_rows: bool) -> None:
        """Go on with another width; see MarkdownStream."""
        if keeps_open_rows:
            self._skip = count_characters([[(self._line, ())]])
        self.width = width

    def _rows(self, line: str) -> list[Row]:
        spans = drop_characters([(line, ("thought",))], self._skip)
        return [[*BAR, *row] for row in wrap(spans, max(1, self.width - 2))]

    def _measure(self) -> str:
        seconds = time.monotonic() - self._started if self._seconds is None else self._seconds
        return f"{seconds:.1f} s, {self.n_tokens:,} tokens"
