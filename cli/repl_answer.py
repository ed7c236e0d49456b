"""One answer on the screen, while it is being written."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from llmrun.cli.markdown_stream import MarkdownStream
from llmrun.cli.markdown_text import Row, printable, row_width, wrap
from llmrun.cli.repl_canvas import Canvas
from llmrun.cli.repl_thoughts import Mode, Thoughts
from llmrun.runner.reasoning import Reasoning

if TYPE_CHECKING:
    from llmrun.cli.terminal import Terminal
    from llmrun.cli.theme import Theme
    from llmrun.runner.generation import Generation

SECONDS_BETWEEN_FRAMES = 1 / 30
SHARE_OF_TIME = 0.06  # that drawing may take; the rest is the model's
MOST_SECONDS = 0.2  # between frames, also after one that took long
LONG_PROMPT = 200  # tokens that take long enough to say that they are being read


class AnswerView:
    """Shows the pieces of one generation as they come, with a status row below them."""

    def __init__(self, terminal: "Terminal", theme: "Theme", mode: Mode, status: Callable[[int], Row]) -> None:
        """status: the row below the answer for a number of columns."""
        self._terminal = terminal
        self._status = status
        self._columns, rows = terminal.size
        width = self._columns - 1  # the last column is left free: a terminal that is full there may break the line
        self.thoughts = Thoughts(width, mode)
        self._answer = MarkdownStream(width)
        self._canvas = Canvas(terminal.write, theme, rows)
        self._reasoning = Reasoning()
        self._settled: list[Row] = []
        self._are_thoughts_closed = False
        self._next_frame = 0.0

    def show(self, generation: "Generation", prompt_end: str) -> None:
        """Read the generation to its end; `prompt_end` is the text before it, which may begin the thoughts."""
        self._reasoning = Reasoning(prompt_end)
        if len(generation.prompt_ids) >= LONG_PROMPT:
            wait = f"reading {len(generation.prompt_ids):,} tokens… Ctrl-C stops"
            self._canvas.update([], [[(wait[: self._columns - 1], ("dim",))]])
        try:
            for piece in generation:
                self._follow_size()
                self.thoughts.n_tokens += self._reasoning.is_thinking
                self._take(self._reasoning.feed(piece.text))
                # rows that are settled are shown at once, so that a change of size finds all of them on the screen
                if self._settled or time.monotonic() >= self._next_frame:
                    self._draw()
        finally:
            self._take(self._reasoning.finish())
            if self._reasoning.is_thinking:  # it was stopped while it thought
                self._settled += self.thoughts.finish()
            self._follow_size()
            self._canvas.update([*self._settled, *self._answer.finish()], [])
            self._canvas.leave()

    def _take(self, parts: list[tuple[bool, str]]) -> None:
        for is_thought, text in parts:
            if is_thought:
                self._settled += self.thoughts.feed(text)
            else:
                self._settled += self._close_thoughts()
                self._settled += self._answer.feed(text)

    def _close_thoughts(self) -> list[Row]:
        if not self.thoughts.text or self._are_thoughts_closed:
            return []
        self._are_thoughts_closed = True
        return self.thoughts.finish()

    def interject(self, text: str) -> None:
        """Show a line that is not part of the answer."""
        self._settled += wrap([(" ".join(printable(text).split()), ("warning",))], self._columns - 1)
        self._draw()

    def _draw(self) -> None:
        started = time.monotonic()
        rows = self.thoughts.open_rows() if self._reasoning.is_thinking else self._answer.open_rows()
        self._canvas.update(self._settled, [*rows, self._status(self._columns - 1)])
        self._settled = []
        took = time.monotonic() - started
        self._next_frame = started + min(max(SECONDS_BETWEEN_FRAMES, took / SHARE_OF_TIME), MOST_SECONDS)

    def _follow_size(self) -> None:
        """Go on at the size that the terminal has now."""
        columns, self._canvas.height = self._terminal.size
        if columns == self._columns:
            return
        keeps = not self._canvas.fits(columns)
        if keeps:
            self._canvas.leave(without_last=row_width(self._status(self._columns - 1)) < columns)
        self._columns = columns
        self.thoughts.resize(columns - 1, keeps)
        self._answer.resize(columns - 1, keeps)


def show_plainly(generation: "Generation", write: Callable[[str], None]) -> None:
    """Print the pieces as they are, for a terminal that can only print lines."""
    ends_line = True
    try:
        for piece in generation:
            if piece.text:
                write(printable(piece.text))
                ends_line = piece.text.endswith("\n")
    finally:
        if not ends_line:
            write("\n")
