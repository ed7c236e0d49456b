"""The end of the screen, where an answer grows: rows are printed once, and only those that change are written again."""

from collections.abc import Callable

from llmrun.cli.markdown_text import Row, row_width
from llmrun.cli.theme import Theme

BEGIN, END = "\x1b[?2026h", "\x1b[?2026l"  # what is between them appears at once, where the terminal knows of it


class Canvas:
    """Knows the rows after the last settled one; the cursor stands at the end of the last row."""

    def __init__(self, write: Callable[[str], None], theme: Theme, height: int) -> None:
        self.height = height
        self._write = write
        self._theme = theme
        self._rows: list[str] = []  # on the screen and open, painted
        self._widths: list[int] = []
        self._is_after_row = False  # whether, with no open rows, the cursor stands at the end of a settled one

    def update(self, settled: list[Row], still_open: list[Row]) -> None:
        """Show rows that are settled, and after them those that may change, in the place of those shown before."""
        rows = [*settled, *still_open]
        painted = [self._theme.paint(row) for row in rows]
        self._replace(painted)
        if rows:
            self._is_after_row = True
        elif self._rows:
            self._is_after_row = False
        self._rows = painted[len(settled) :]
        self._widths = [row_width(row) for row in still_open]

    def fits(self, columns: int) -> bool:
        """Whether the rows that may change stay rows in a terminal of so many columns, so that they can be replaced."""
        return all(width <= columns for width in self._widths)

    def leave(self, without_last: bool = False) -> None:
        """Keep what is shown, perhaps without the last row, and begin anew on an empty row."""
        if self._rows and without_last:
            self._write("\r\x1b[J")
        elif self._is_after_row:
            self._write("\r\n")
        self._rows, self._widths, self._is_after_row = [], [], False

    def _replace(self, new: list[str]) -> None:
        old = self._rows
        same = 0
        while same < min(len(old), len(new)) and old[same] == new[same]:
            same += 1
        if same == len(old):
            if new[same:]:
                self._write("\r\n" * self._is_after_row + "\r\n".join(new[same:]))
            return
        if same == len(old) - 1 < len(new) and new[same].startswith(old[same]):
            self._write("\r\n".join([new[same][len(old[same]) :], *new[same + 1 :]]))
            return
        first = min(same, max(0, len(new) - 1))
        first = max(first, len(old) - self.height)  # what has left the screen at its top cannot be reached
        back = f"\x1b[{len(old) - 1 - first}A\r" if first < len(old) - 1 else "\r"
        rows = "\r\n".join(f"{row}\x1b[K" for row in new[first:])
        below = "\x1b[J" if len(new) < len(old) else ""
        self._write(f"{BEGIN}{back}{rows}{below}{END}")
