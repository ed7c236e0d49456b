"""From parsed Markdown to the rows of a screen, leaf by leaf."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llmrun.cli.markdown_code import CodeLines
from llmrun.cli.markdown_inline import inline_spans, parser, with_ends
from llmrun.cli.markdown_table import Table
from llmrun.cli.markdown_text import PLAIN, Row, Span, Style, count_characters, drop_characters, row_width, wrap

if TYPE_CHECKING:
    from markdown_it.token import Token

BULLETS = "•◦▪"
RULE = 40  # columns of a rule; narrower than most terminals, so that making one narrower breaks no rules
QUOTE: Span = ("│ ", ("border",))
NARROWEST = 8


@dataclass
class Leaf:
    """A paragraph, a block of code, a table or a rule, with what stands to the left of it."""

    kind: str  # text, code, table, rule
    line: int  # of the source, its first
    first: Row = field(default_factory=list)  # before its first row: "• ", and the indentation of the items around it
    rest: Row = field(default_factory=list)  # before its other rows
    gap: Row | None = None  # an empty row before it, with what stands to the left there
    content: str = ""  # of text and code
    style: Style = PLAIN
    cuts: Sequence[int] = ()  # places in a text from which on it is parsed anew
    is_continued: bool = False  # whether its beginning is on the screen for good: the next two say how much
    base: int = 0  # characters of a text up to one of its cuts; lines of code
    skip: int = 0  # characters of a text after that, white space not counted
    code: CodeLines | None = None
    table: Table | None = None
    is_open: bool = False  # whether a block of code may get more lines
    is_growing: bool = False  # whether a text ends where the answer stands, perhaps within a span

    def rows(self, width: int, until: int | None = None) -> list[Row]:
        """All rows that are not on the screen for good; of a text those up to the cut `until`."""
        first, rest, room = self._margins(width)
        if self.kind == "text":
            rows = self._text_rows(room, until)
        elif self.kind == "code":
            rows = self._code_rows(room)
        elif self.table is not None:
            rows = [row for part in self.table.rows(room) for row in part]
        else:
            rows = [[("─" * min(RULE, room), ("border",))]]
        rows = [[*(rest if i or self.is_continued else first), *row] for i, row in enumerate(rows)]
        return rows if self.gap is None or self.is_continued else [self.gap, *rows]

    def n_characters(self, n_rows: int, width: int) -> int:
        """Characters of a text, but no white space, in the first `n_rows` of its rows."""
        return count_characters(self._text_rows(self._margins(width)[2])[: max(0, n_rows - self._n_gap)])

    def spans(self, until: int | None = None) -> list[Span]:
        """The styled text from its base on, each part between cuts parsed by itself."""
        end_of_all = len(self.content) if until is None else until
        spans: list[Span] = []
        start = self.base
        for end in [*(cut for cut in self.cuts if start < cut < end_of_all), end_of_all]:
            part = self.content[start:end]
            text = part.rstrip(" \n")  # which a parser would drop
            is_last = end == len(self.content)
            spans += inline_spans(with_ends(text) if is_last and self.is_growing else text, self.style)
            if not is_last:
                spans.append((part[len(text) :], self.style))
            start = end
        return spans

    def n_settled(self, width: int, has_partial_line: bool) -> int:
        """How many of the first rows no further text can change, if this is the last leaf."""
        if self.kind == "text":
            if not self.cuts or self.cuts[-1] <= self.base:
                return 0
            n_rows = len(self.rows(width, self.cuts[-1])) - 1
            return n_rows if n_rows > self._n_gap else 0
        room = self._margins(width)[2]
        if self.kind == "code":
            return self._n_gap + len(self._code_rows(room, self.n_lines)) if self.is_open else len(self.rows(width))
        if self.table is not None and self.table.is_fixed:
            parts = self.table.rows(room)
            return self._n_gap + sum(map(len, parts[:-1] if has_partial_line else parts))
        return 0

    @property
    def n_lines(self) -> int:
        """Complete lines of code, without empty ones at the end, which may turn out to be no part of it."""
        complete = self.content[: self.content.rfind("\n") + 1].rstrip()
        return complete.count("\n") + 1 if complete else 0

    @property
    def _n_gap(self) -> int:
        return 0 if self.gap is None or self.is_continued else 1

    def _margins(self, width: int) -> tuple[Row, Row, int]:
        """What stands to the left of the first row and of the others, and the columns that are left."""
        first, rest = self.first, self.rest
        if width - row_width(first) < NARROWEST:  # only the innermost
            first, rest = first[-1:], rest[-1:]
        return first, rest, max(1, width - row_width(first))

    def _text_rows(self, room: int, until: int | None = None) -> list[Row]:
        return wrap(drop_characters(self.spans(until), self.skip), room)

    def _code_rows(self, room: int, n_lines: int | None = None) -> list[Row]:
        assert self.code is not None
        label = f"─── {self.style[0]} " if self.style else ""
        rule: Row = [(label.ljust(min(RULE, room), "─")[:room], ("border",))]
        rows = [part for row in self.code.rows(self.content)[self.base : n_lines] for part in _cut(row, room)]
        end: list[Row] = [] if self.is_open else [[("─" * min(RULE, room), ("border",))]]
        return [*([] if self.is_continued else [rule]), *rows, *end]


class Layout:
    """Builds the leaves of a source; the last block of code keeps its highlighted lines from one time to the next."""

    def __init__(self) -> None:
        self._code: dict[tuple[int, str], CodeLines] = {}  # of the last block of code, by its line

    def leaves(
        self, source: str, first_line: int = 0, has_gap: bool = False, is_complete: bool = False
    ) -> tuple[list[Leaf], int]:
        """The leaves of a source that begins at line `first_line` of the whole, and the line of its last block or item.

        has_gap: whether an empty row comes before the first of them; for the others the source says so.
        is_complete: the source ends here, so a block of code that is open ends too.
        """
        builder = _Builder(source.split("\n"))
        builder.build(parser().parse(source))
        leaves = builder.leaves
        if leaves:
            leaves[0].gap = [] if has_gap else None
        for leaf in leaves[:-1] if not is_complete else leaves:
            leaf.is_open = False
        for leaf in leaves:
            leaf.line += first_line
        used = {(leaf.line, leaf.style[0] if leaf.style else ""): leaf for leaf in leaves if leaf.kind == "code"}
        for key, leaf in used.items():
            leaf.code = self._code.get(key) or CodeLines(key[1])
        self._code = {key: leaf.code for key, leaf in used.items() if leaf.code is not None}
        return leaves, first_line + builder.last_start


@dataclass
class _Container:
    first: Span  # before the first row of what is in it
    rest: Span
    is_used: bool = False


class _Builder:
    """Walks the tokens of a parsed source once."""

    def __init__(self, lines: list[str]) -> None:
        self.leaves: list[Leaf] = []
        self.last_start = 0  # line of the last block, or of the last item if that is a list
        self._lines = lines
        self._containers: list[_Container] = []
        self._lists: list[int | None] = []  # next number of each list around; None for bullets
        self._end = 0  # line after the last leaf
        self._table = Table()
        self._style: Style = PLAIN

    def build(self, tokens: "Sequence[Token]") -> None:
        """Append the leaves of the tokens."""
        for token in tokens:
            if token.map and (token.level == 0 or (token.level == 1 and token.type == "list_item_open")):
                self.last_start = token.map[0]
            handle = getattr(self, f"_{token.type}", None)
            if handle is not None:
                handle(token)

    def _add(self, kind: str, token: "Token", **values: object) -> None:
        first, rest = [], []
        bars = [c.rest for c in self._containers if c.rest == QUOTE]
        for container in self._containers:
            first.append(container.rest if container.is_used else container.first)
            rest.append(container.rest)
            container.is_used = True
        start, end = token.map or (self._end, self._end)
        gap: Row | None = list(bars) if self.leaves and self._is_blank(start - 1) else None
        self.leaves.append(Leaf(kind, start, first, rest, gap, **values))  # type: ignore[arg-type]
        self._end = end

    def _is_blank(self, line: int) -> bool:
        return line >= 0 and not self._lines[line].strip(" \t>")

    def _heading_open(self, token: "Token") -> None:
        self._style = ("title" if token.tag in ("h1", "h2") else "heading",)

    def _heading_close(self, _token: "Token") -> None:
        self._style = PLAIN

    def _inline(self, token: "Token") -> None:
        if self._table.cells:
            self._table.cells[-1].append(inline_spans(token.content, self._style))
        else:
            self._add("text", token, content=token.content, style=self._style)

    def _fence(self, token: "Token") -> None:
        words = token.info.split()
        language = words[0] if words else ""
        content = token.content
        start, end = token.map or (0, 0)
        is_open = end - start < len(content.splitlines()) + 2
        if is_open and end == len(self._lines) and self._lines[-1]:  # a line that is not complete
            content = content.removesuffix("\n")
        self._add("code", token, content=content, style=(language,) if language else (), is_open=is_open)

    def _code_block(self, token: "Token") -> None:
        self._add("code", token, content=token.content, is_open=True)

    def _hr(self, token: "Token") -> None:
        self._add("rule", token)

    def _blockquote_open(self, _token: "Token") -> None:
        self._containers.append(_Container(QUOTE, QUOTE))

    def _blockquote_close(self, _token: "Token") -> None:
        self._containers.pop()

    def _bullet_list_open(self, _token: "Token") -> None:
        self._lists.append(None)

    def _bullet_list_close(self, _token: "Token") -> None:
        self._lists.pop()

    def _ordered_list_open(self, token: "Token") -> None:
        self._lists.append(int(token.attrs.get("start", 1)))

    _ordered_list_close = _bullet_list_close

    def _list_item_open(self, token: "Token") -> None:
        number = self._lists[-1]
        if number is None:
            depth = sum(n is None for n in self._lists) - 1
            marker = f"{BULLETS[min(depth, len(BULLETS) - 1)]} "
        else:
            marker = f"{token.info or number}{token.markup} "
        self._containers.append(_Container((marker, ("marker",)), (" " * len(marker), PLAIN)))

    def _list_item_close(self, token: "Token") -> None:
        if not self._containers[-1].is_used:  # an empty item
            self._add("text", token)
        self._containers.pop()

    def _table_open(self, token: "Token") -> None:
        self._table = Table()
        self._add("table", token, table=self._table)

    def _table_close(self, _token: "Token") -> None:
        self._table = Table()

    def _tr_open(self, _token: "Token") -> None:
        self._table.cells.append([])

    def _th_open(self, token: "Token") -> None:
        self._table.alignments.append(str(token.attrs.get("style", "")).removeprefix("text-align:"))
        self._style = ("strong",)

    def _th_close(self, _token: "Token") -> None:
        self._style = PLAIN


def _cut(row: Row, room: int) -> list[Row]:
    """A line of code on as many rows as it needs; its spaces stay."""
    rows: list[Row] = [[]]
    used = 0
    for text, style in row:
        start = 0
        width = row_width([(text, style)])
        if used + width <= room:
            rows[-1].append((text, style))
            used += width
            continue
        for i, character in enumerate(text):
            cells = row_width([(character, style)])
            if used and used + cells > room:
                rows[-1].append((text[start:i], style))
                rows.append([])
                start, used = i, 0
            used += cells
        rows[-1].append((text[start:], style))
    return rows
