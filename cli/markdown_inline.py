"""Inline Markdown: from the text of a paragraph to styled spans, also while its end is still missing."""

import re
from functools import cache
from typing import TYPE_CHECKING

from llmrun.cli.markdown_text import PLAIN, Span, Style

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

ROLES = {"strong_open": "strong", "em_open": "emphasis", "s_open": "strike", "link_open": "link"}
SPECIAL = re.compile(r"[*_~`\[<&\\]")  # without one of these a text is plain
_OPEN = re.compile(r"[*_~`\[]")  # with these begins a span that may have spaces in it
_MARKS = re.compile(r"`+|\*+|~~")
_LINK_TAIL = re.compile(r"\[[^\[\]\n]+\]\([^()\s]*$")
_TRAILING_MARKS = re.compile(r"[*_`~\\]+$")


@cache
def parser() -> "MarkdownIt":
    """CommonMark with tables and strike-through.

    Left out is what could change text long after it was said: definitions of references, and headings that are made by
    underlining them, which in an answer is a rule under a paragraph more often than not. HTML is text.
    """
    from markdown_it import MarkdownIt

    rules = ["table", "strikethrough"]
    return MarkdownIt("commonmark", {"html": False}).enable(rules).disable(["reference", "lheading"])


def inline_spans(text: str, style: Style = PLAIN) -> list[Span]:
    """The spans of a paragraph's text; its line breaks are kept."""
    if not SPECIAL.search(text):
        return [("\n".join(line.rstrip() for line in text.split("\n")), style)] if text else []
    spans: list[Span] = []
    styles = [style]
    links: list[tuple[str, int]] = []
    for token in parser().parseInline(text)[0].children or []:
        if role := ROLES.get(token.type):
            styles.append((*styles[-1], role))
            if role == "link":
                links.append((str(token.attrs.get("href", "")), len(spans)))
        elif token.nesting < 0:
            styles.pop()
            if token.type == "link_close":
                spans += _address(*links.pop(), spans, styles[-1])
        elif token.type in ("softbreak", "hardbreak"):
            spans.append(("\n", PLAIN))
        elif token.content or token.type == "image":
            spans += _leaf(token, styles[-1])
    return spans


def _leaf(token: "Token", style: Style) -> list[Span]:
    if token.type == "code_inline":
        return [(token.content, (*style, "code"))]
    if token.type == "image":
        return [(f"[image: {token.content}] ({token.attrs.get('src', '')})", (*style, "link"))]
    return [(token.content, style)]


def _address(href: str, first: int, spans: list[Span], style: Style) -> list[Span]:
    """The address behind the text of a link that does not say it itself."""
    text = "".join(text for text, _ in spans[first:])
    return [] if not href or href.removeprefix("mailto:") == text else [(f" ({href})", (*style, "address"))]


def with_ends(text: str) -> str:
    """The text with the spans that are open at its end closed, so that bold text is bold from its first letter on."""
    text = _TRAILING_MARKS.sub("", text)
    is_open: list[str] = []
    for match in _MARKS.finditer(text):
        mark = match[0]
        if is_open and is_open[-1][0] == "`":
            if mark == is_open[-1]:
                is_open.pop()
        elif is_open and is_open[-1] == mark and not text[match.start() - 1].isspace():
            is_open.pop()
        elif mark[0] == "`" or not text[match.end() : match.end() + 1].isspace():
            is_open.append(mark)
    if _LINK_TAIL.search(text):
        return text + ")"
    return text.rstrip(" ") + "".join(reversed(is_open)) if is_open else text


def safe_cut(text: str, longest: int) -> int:
    """Where a paragraph that goes on can be cut so that both parts mean alone what they mean together; 0 for nowhere.

    A mark that still has no partner after `longest` characters is taken for text.
    """
    whole = inline_spans(text)
    spaces = [m.end() for m in re.finditer(r"[ \n]+|(?<=[\u3000-\u9fff])", text)][:-1]
    for cut in reversed(spaces[-20:]):
        before = inline_spans(text[:cut])
        if _has_open_mark(before):
            continue
        if _characters(before) + _characters(inline_spans(text[cut:])) == _characters(whole):
            return cut
    if len(text) < longest:
        return 0
    return spaces[-1] if spaces else len(text)


def _has_open_mark(spans: list[Span]) -> bool:
    return any("code" not in style and _OPEN.search(text) for text, style in spans)


def _characters(spans: list[Span]) -> list[tuple[str, Style]]:
    return [(c, style) for text, style in spans for c in text if not c.isspace()]
