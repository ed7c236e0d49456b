"""Tables, in as many columns as the terminal has."""

from dataclasses import dataclass, field

from llmrun.cli.markdown_text import Row, Span, row_width, wrap

MEASURED_ROWS = 8  # the header and these decide the widths; rows after them are fitted, so that nothing moves any more
GAP: Span = (" │ ", ("border",))
CROSS = "─┼─"
LEAST = 4  # columns for a cell


@dataclass
class Table:
    """The cells of a table: rows of columns of spans, the header first."""

    cells: list[list[list[Span]]] = field(default_factory=list)
    alignments: list[str] = field(default_factory=list)  # of each column: left, right or center

    @property
    def is_fixed(self) -> bool:
        """Whether more rows would leave the widths as they are."""
        return len(self.cells) > MEASURED_ROWS

    def rows(self, width: int) -> list[list[Row]]:
        """For each row of the table its rows on the screen; the header's end with a rule."""
        columns = self._widths(width)
        if columns is None:
            return [wrap(_joined(cells), width) for cells in self.cells]
        laid = [self._lay_out(cells, columns) for cells in self.cells]
        laid[0].append([(CROSS.join("─" * column for column in columns), ("border",))])
        return laid

    def _widths(self, width: int) -> list[int] | None:
        """Columns for each column; None if they do not fit in any way."""
        room = width - len(GAP[0]) * (len(self.cells[0]) - 1)
        wanted = [max(1, *map(row_width, column)) for column in zip(*self.cells[: MEASURED_ROWS + 1], strict=True)]
        if room < LEAST * len(wanted):
            return None
        while sum(wanted) > room:  # the widest gives first
            widest = max(range(len(wanted)), key=wanted.__getitem__)
            second = max((w for i, w in enumerate(wanted) if i != widest), default=0)
            wanted[widest] = max(min(wanted[widest] - 1, second), wanted[widest] - (sum(wanted) - room), LEAST)
        return wanted

    def _lay_out(self, cells: list[list[Span]], columns: list[int]) -> list[Row]:
        wrapped = [wrap(cell, column) for cell, column in zip(cells, columns, strict=True)]
        rows = []
        for i in range(max(map(len, wrapped))):
            row: Row = []
            for j, column in enumerate(columns):
                part = wrapped[j][i] if i < len(wrapped[j]) else []
                is_last = j == len(columns) - 1
                row += _aligned(part, column, self.alignments[j], is_last)
                if not is_last:
                    row.append(GAP)
            rows.append(row)
        return rows


def _aligned(part: Row, column: int, alignment: str, is_last: bool) -> Row:
    missing = column - row_width(part)
    before = missing if alignment == "right" else missing // 2 if alignment == "center" else 0
    after = 0 if is_last else missing - before
    return [*([(" " * before, ())] if before else []), *part, *([(" " * after, ())] if after else [])]


def _joined(cells: list[list[Span]]) -> list[Span]:
    spans: list[Span] = []
    for i, cell in enumerate(cells):
        spans += [*([(" | ", ("border",))] if i else []), *((text.replace("\n", " "), style) for text, style in cell)]
    return spans
