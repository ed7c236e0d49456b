"""Markdown as it streams in: rows that are settled for good, and the few that may still change.

Which rows are settled depends on the text alone, never on the pieces in which it came: it is decided where a line ends,
and within a long line at every STEP characters. Blocks before the last one are settled, complete lines of code are, and
the parts of a long paragraph that no mark after them can change. So what has to be redrawn stays a few rows.
"""

import re

from llmrun.cli.markdown_inline import safe_cut
from llmrun.cli.markdown_layout import Layout, Leaf
from llmrun.cli.markdown_text import Row, count_characters, printable

STEP = 160  # characters of a line between decisions
LINES = 4  # of a paragraph, that make it as long
LONGEST_SPAN = 480  # characters within which a mark has to find its partner
# A line that has not come to its end may yet become a heading, an item, a rule, a fence or a row of a table.
_UNDECIDED = re.compile(r"[ \t>]*(#{1,6}|[-*+]|\d{1,9}[.)]?|[-*_ ]{2,}|`{1,3}[^`]*|~|~{2,}[^~]*|\|.*|[:|\- ]+)?[ \t]*")


class MarkdownStream:
    """Takes a text in pieces; gives rows for a screen of `width` columns."""

    def __init__(self, width: int) -> None:
        self.width = width
        self._layout = Layout()
        self._source = ""  # from the first block on that is not settled
        self._line = 0  # of the whole text, at which the source begins
        self._has_gap = False  # whether an empty row comes before the first block of the source
        self._n_decided = 0  # characters of the source when it was last decided
        self._n_settled = 0  # rows of the source that are settled
        self._line_length = 0
        self._leaf = -1  # line at which the last leaf begins, to which the next four belong; see Leaf
        self._cuts: list[int] = []
        self._is_continued = False
        self._base = 0
        self._skip = 0
        self._shown: Leaf | None = None  # the last one that open_rows() gave

    def feed(self, text: str) -> list[Row]:
        """Take the next piece; returns the rows that became settled with it."""
        rows: list[Row] = []
        text = printable(text)
        start = 0
        while start < len(text):
            end = text.find("\n", start) + 1 or len(text)
            end = min(end, start + STEP - self._line_length % STEP)
            self._source += text[start:end]
            self._line_length = 0 if text[end - 1] == "\n" else self._line_length + end - start
            if self._line_length % STEP == 0:
                rows += self._settle()
            start = end
        return rows

    def open_rows(self) -> list[Row]:
        """The rows that may still change, as far as it is clear what they will be."""
        leaves = self._preview()
        self._shown = leaves[-1] if leaves else None
        return [row for leaf in leaves for row in leaf.rows(self.width)][self._n_settled :]

    def finish(self) -> list[Row]:
        """The rows that are left when there is no more text."""
        leaves, _ = self._leaves(self._source, is_complete=True)
        return [row for leaf in leaves for row in leaf.rows(self.width)][self._n_settled :]

    def resize(self, width: int, keeps_open_rows: bool) -> None:
        """Go on with another width.

        keeps_open_rows: the rows that `open_rows` gave last stay where they are, so their text is not given again.
        """
        self.width = width
        shown = self._shown
        if keeps_open_rows and shown is not None and shown.kind == "text":
            if shown.line != self._leaf:
                self._begin_leaf(shown.line)
            self._is_continued, self._skip = True, count_characters([shown.spans()])
            line = shown.line
        else:
            decided, _ = self._leaves(self._source[: self._n_decided])
            if decided and decided[-1].kind != "text":
                self._n_settled = self._count_settled(decided)
                return
            line = decided[-1].line if decided else 0
        leaves, _ = self._leaves(self._source)
        self._n_settled = sum(len(leaf.rows(width)) for leaf in leaves if leaf.line < line)

    def _settle(self) -> list[Row]:
        """Decide what is settled now; returns the rows that were not before."""
        leaves, last_start = self._leaves(self._source)
        if not leaves:
            return []
        last = leaves[-1]
        if last.line != self._leaf:
            self._begin_leaf(last.line)
        if last.kind == "text" and not _may_be_table(last):
            self._cut(last)
        n_settled = self._count_settled(leaves)
        rows = [row for leaf in leaves for row in leaf.rows(self.width)][self._n_settled : n_settled]
        n_before = sum(len(leaf.rows(self.width)) for leaf in leaves[:-1])
        self._n_settled = max(self._n_settled, n_settled)
        if n_settled > n_before and (last.kind == "text" or last.is_open):
            self._continue(last, n_settled - n_before)
            self._n_settled = n_before
        self._drop(leaves, last_start)
        self._n_decided = len(self._source)
        return rows

    def _begin_leaf(self, line: int) -> None:
        self._leaf, self._cuts, self._is_continued, self._base, self._skip = line, [], False, 0, 0

    def _continue(self, leaf: Leaf, n_rows: int) -> None:
        """Leave the first rows of a leaf alone from now on."""
        self._is_continued = True
        if leaf.kind == "code":
            self._base = leaf.n_lines
            return
        self._skip += leaf.n_characters(n_rows, self.width)
        for cut in [cut for cut in self._cuts if cut > self._base]:
            n = count_characters([leaf.spans(cut)])
            if n > self._skip:
                break
            self._base, self._skip = cut, self._skip - n
            leaf.base = cut

    def _cut(self, leaf: Leaf) -> None:
        """Cut a long paragraph where nothing after it can change it any more."""
        start = self._cuts[-1] if self._cuts else 0
        is_long = len(leaf.content) - start >= STEP or leaf.content.count("\n", start) >= LINES
        if is_long and (cut := safe_cut(leaf.content[start:], LONGEST_SPAN)):
            self._cuts.append(start + cut)
            leaf.cuts = self._cuts

    def _count_settled(self, leaves: list[Leaf]) -> int:
        before = sum(len(leaf.rows(self.width)) for leaf in leaves[:-1])
        return before + sum(leaf.n_settled(self.width, self._line_length > 0) for leaf in leaves[-1:])

    def _drop(self, leaves: list[Leaf], start: int) -> None:
        """Forget the blocks, or the items of a list, before line `start`, which begins the last one."""
        before = [leaf for leaf in leaves if leaf.line < start]
        if not before or len(before) == len(leaves):
            return
        self._n_settled -= sum(len(leaf.rows(self.width)) for leaf in before)
        self._has_gap = leaves[len(before)].gap is not None
        self._source = "".join(self._source.splitlines(keepends=True)[start - self._line :])
        self._line = start

    def _leaves(self, source: str, is_complete: bool = False) -> tuple[list[Leaf], int]:
        leaves, last_start = self._layout.leaves(source, self._line, self._has_gap, is_complete)
        for leaf in leaves:
            if leaf.line == self._leaf and leaf.kind in ("text", "code"):
                leaf.cuts, leaf.is_continued = self._cuts, self._is_continued
                leaf.base, leaf.skip = self._base, self._skip
        return leaves, last_start

    def _preview(self) -> list[Leaf]:
        """The leaves without an end of which it is not clear yet what it is."""
        end = self._source.rfind("\n") + 1
        leaves, _ = self._leaves(self._source[:end] if _UNDECIDED.fullmatch(self._source, end) else self._source)
        if leaves and leaves[-1].kind == "text":
            last = leaves[-1]
            last.is_growing = True
            if _may_be_table(last):
                last.content = last.content[: last.content.rfind("\n") + 1].rstrip()
                return leaves if last.content else leaves[:-1]
        return leaves


def _may_be_table(leaf: Leaf) -> bool:
    """Whether the last line of a paragraph is the header of a table if the next one says so."""
    return leaf.content.rsplit("\n", 1)[-1].lstrip().startswith("|")
