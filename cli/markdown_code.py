"""Code, highlighted line by line as it comes."""

from functools import cache
from typing import TYPE_CHECKING

from llmrun.cli.markdown_text import Row

if TYPE_CHECKING:
    from pygments.lexer import Lexer

TAB = "    "
KEPT_LINES = 25  # lexed again for every new line, unless the code offers a nearer place to begin


class CodeLines:
    """The rows of one block of code, unbroken; lines that are complete are lexed once.

    A lexer needs to begin where nothing is open: at the start, or at a line that stands at the margin after an empty
    line that was no part of a string or a comment.
    """

    def __init__(self, language: str) -> None:
        self._lexer = _lexer(language)
        self._lines: list[str] = []  # complete lines that are highlighted
        self._rows: list[Row] = []
        self._restart = 0  # the line to lex from

    def rows(self, code: str) -> list[Row]:
        """The rows of `code`, which is longer than last time or the same; its last line may be incomplete."""
        lines = code.expandtabs(len(TAB)).split("\n")
        if self._lines != lines[: len(self._lines)]:
            self._lines, self._rows, self._restart = [], [], 0
        complete = lines[:-1]
        for n in range(len(self._lines) + 1, len(complete) + 1):
            self._rows.append(self._lex(complete[:n])[-1])
            self._lines.append(complete[n - 1])
        return [*self._rows, *(self._lex(lines)[-1:] if lines[-1] else [])]

    def _lex(self, lines: list[str]) -> list[Row]:
        """Rows from the place to begin on; moves that place."""
        if self._lexer is None:
            return [[(line, ("text",))] if line else [] for line in lines[-1:]]
        start = self._restart if len(lines) - self._restart <= 2 * KEPT_LINES else len(lines) - KEPT_LINES
        rows: list[Row] = [[]]
        kinds: list[str] = []  # of the end of each line
        for token, text in self._lexer.get_tokens("\n".join(lines[start:])):
            role = _role(token)
            for i, part in enumerate(text.split("\n")):
                if i:
                    kinds.append(role)
                    rows.append([])
                if part:
                    rows[-1].append((part, (role,)))
        rows = rows[: len(lines) - start]
        last = len(rows) - 1
        if last > 0 and rows[last] and not lines[-2] and not lines[-1][:1].isspace() and kinds[last - 1] == "text":
            self._restart = start + last
        return rows


@cache
def _lexer(language: str) -> "Lexer | None":
    if not language:
        return None
    from pygments.lexers import get_lexer_by_name
    from pygments.util import ClassNotFound

    try:
        lexer: Lexer = get_lexer_by_name(language, stripnl=False, stripall=False, ensurenl=True)
    except ClassNotFound:
        return None
    return lexer


@cache
def _role(token: object) -> str:
    """The role in a theme of a type of token."""
    from pygments.token import Comment, Generic, Keyword, Name, Number, Operator, String

    roles = {
        Comment: "comment",
        Keyword: "keyword",
        Operator.Word: "keyword",
        String: "string",
        Number: "number",
        Name.Function: "function",
        Name.Class: "function",
        Name.Decorator: "function",
        Name.Tag: "keyword",
        Name.Attribute: "function",
        Name.Builtin: "builtin",
        Name.Exception: "builtin",
        Generic.Inserted: "inserted",
        Generic.Deleted: "deleted",
        Generic.Heading: "keyword",
        Generic.Subheading: "keyword",
    }
    return next((role for kind, role in roles.items() if token in kind), "text")
