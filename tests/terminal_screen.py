"""A terminal in memory: what is written to it, and the lines it then shows, first those that left it at its top."""

import pyte

COLUMNS, ROWS = 80, 24


class Screen:
    def __init__(self, columns: int = COLUMNS, rows: int = ROWS) -> None:
        self.screen = pyte.HistoryScreen(columns, rows, history=100_000, ratio=0.5)
        self._stream = pyte.Stream(self.screen)

    def write(self, text: str) -> None:
        # pyte drops what follows a joiner in the same piece
        self._stream.feed(text.replace("\u200d", ""))

    def resize(self, columns: int, rows: int) -> None:
        self.screen.resize(rows, columns)

    @property
    def lines(self) -> list[str]:
        """All lines without spaces at their ends; empty ones at the end are left out."""
        columns = self.screen.columns
        rows = [*self.screen.history.top, *(self.screen.buffer[y] for y in range(self.screen.lines))]
        lines = ["".join(row[x].data for x in range(columns)).rstrip() for row in rows]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def style(self, word: str) -> set[str]:
        """Attributes and colour of the first letter of `word` where it stands last on the visible screen."""
        for y in reversed(range(self.screen.lines)):
            if (x := self.screen.display[y].rfind(word)) >= 0:
                cell = self.screen.buffer[y][x]
                names = ("bold", "italics", "underscore", "strikethrough")
                return {name for name in names if getattr(cell, name)} | {cell.fg}
        raise AssertionError(f"{word!r} is not on the screen:\n{self.text}")
