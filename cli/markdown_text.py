"""Styled text and how it is broken into rows of a terminal."""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

from wcwidth import wcwidth

Style = tuple[str, ...]  # names of roles in a theme, as ("strong", "link")
Span = tuple[str, Style]
Row = list[Span]  # one row of the screen, without a line break

PLAIN: Style = ()
VS16 = "\ufe0f"  # makes a character an emoji, which is wide
NOT_FIRST = frozenset("。，、．！？：；）」』】〉》〕％…,.!?:;)]}%")  # noqa: RUF001  # these never begin a row
_PIECES = re.compile(r"\n|[ \t]+|[^ \t\n]+")
_CONTROLS = {
    c: "\ufffd"
    for c in (*range(32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
    if c not in (9, 10, 13)
} | {13: None}


def printable(text: str) -> str:
    """The text without what would command the terminal or turn its direction; line breaks and tabs stay."""
    return text.translate(_CONTROLS)


@lru_cache(8192)
def _cell(character: str) -> int:
    return 1 if character == VS16 else max(0, wcwidth(character))


def width_of(text: str) -> int:
    """Columns that a text takes, at most: terminals that join emoji to one picture take fewer."""
    return len(text) if text.isascii() else sum(map(_cell, text))


def row_width(row: Row) -> int:
    """Columns that a row takes, at most."""
    return sum(width_of(text) for text, _ in row)


def wrap(spans: Iterable[Span], width: int) -> list[Row]:
    """Break text into rows of at most `width` columns, between words, or between any two wide characters.

    A word longer than a row is cut. Spaces at a break are dropped. There is at least one row.
    """
    rows: list[Row] = [[]]
    used = 0
    space: Row = []  # spaces that come before the next word, if it stays on this row
    for word in _words(spans):
        if word[0][0] == "\n":
            rows.append([])
            used, space = 0, []
        elif word[0][0].isspace():
            space = [*space, *word] if used else []
        else:
            needed = row_width(word)
            gap = row_width(space)
            if used and used + gap + needed > width:
                rows.append([])
                used, space, gap = 0, [], 0
            for text, style in (*space, *_cut(word, width)):
                if text == "\n":
                    rows.append([])
                    used = 0
                    continue
                _append(rows[-1], text, style)
                used += width_of(text)
            space = []
    return rows


def drop_characters(spans: Iterable[Span], count: int) -> list[Span]:
    """The spans without their first `count` characters that are not white space, and without what separates them."""
    if not count:
        return list(spans)
    kept: list[Span] = []
    for text, style in spans:
        start = 0
        while start < len(text) and (count or (not kept and text[start].isspace())):
            count -= not text[start].isspace()
            start += 1
        if text[start:]:
            kept.append((text[start:], style))
    return kept


def count_characters(rows: Iterable[Row]) -> int:
    """Characters that are not white space."""
    return sum(not c.isspace() for row in rows for text, _ in row for c in text)


def _append(row: Row, text: str, style: Style) -> None:
    if row and row[-1][1] == style:
        row[-1] = (row[-1][0] + text, style)
    else:
        row.append((text, style))


def _words(spans: Iterable[Span]) -> Iterator[Row]:
    """Pieces that are not broken: words of one or several styles, runs of spaces, line breaks."""
    word: Row = []
    for text, style in spans:
        for piece in _PIECES.findall(text):
            if piece.isspace():
                if word:
                    yield word
                    word = []
                yield [(piece.replace("\t", " "), style)]
            elif piece.isascii():
                word.append((piece, style))
            else:
                for part in _break_wide(piece):
                    if word and _may_break(word[-1][0][-1], part[0]):
                        yield word
                        word = []
                    _append(word, part, style)
    if word:
        yield word


def _break_wide(piece: str) -> Iterator[str]:
    start = 0
    for i in range(1, len(piece)):
        if _may_break(piece[i - 1], piece[i]):
            yield piece[start:i]
            start = i
    yield piece[start:]


def _may_break(before: str, after: str) -> bool:
    return (
        (_cell(before) == 2 or _cell(after) == 2) and _cell(after) > 0 and after not in NOT_FIRST and before != "\u200d"
    )


def _cut(word: Row, width: int) -> Iterator[Span]:
    """The word, with line breaks where it is longer than a row."""
    if row_width(word) <= width:
        yield from word
        return
    used = 0
    for text, style in word:
        for character in text:
            cells = _cell(character)
            if used and used + cells > width:
                yield "\n", style
                used = 0
            yield character, style
            used += cells
