"""What things look like: a role, such as a heading, becomes the codes of a terminal."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from llmrun.cli.markdown_text import Row, Style

Color = tuple[float, float, float]  # red, green, blue from 0 to 1

# Codes of ECMA-48 "select graphic rendition". The attributes are all that NO_COLOR leaves.
ATTRIBUTES = {
    "title": "1;4",
    "heading": "1",
    "strong": "1",
    "emphasis": "3",
    "strike": "9",
    "link": "4",
    "address": "2",
    "border": "2",
    "dim": "2",
    "thought": "2;3",
    "prompt": "1",
    "keyword": "1",
    "comment": "3",
}
DARK = ATTRIBUTES | {
    "title": "1;4;38;5;117",
    "heading": "1;38;5;117",
    "code": "38;5;216",
    "link": "4;38;5;111",
    "address": "38;5;245",
    "border": "38;5;241",
    "dim": "38;5;245",
    "thought": "3;38;5;245",
    "marker": "38;5;117",
    "prompt": "1;38;5;117",
    "error": "38;5;210",
    "warning": "38;5;222",
    "keyword": "38;5;177",
    "string": "38;5;150",
    "number": "38;5;216",
    "comment": "3;38;5;245",
    "function": "38;5;111",
    "builtin": "38;5;80",
    "inserted": "38;5;150",
    "deleted": "38;5;210",
}
LIGHT = ATTRIBUTES | {
    "title": "1;4;38;5;25",
    "heading": "1;38;5;25",
    "code": "38;5;130",
    "link": "4;38;5;26",
    "address": "38;5;243",
    "border": "38;5;247",
    "dim": "38;5;243",
    "thought": "3;38;5;243",
    "marker": "38;5;25",
    "prompt": "1;38;5;25",
    "error": "38;5;124",
    "warning": "38;5;130",
    "keyword": "38;5;90",
    "string": "38;5;28",
    "number": "38;5;130",
    "comment": "3;38;5;243",
    "function": "38;5;26",
    "builtin": "38;5;30",
    "inserted": "38;5;28",
    "deleted": "38;5;124",
}


@dataclass(frozen=True)
class Theme:
    """A name and the codes for each role; a role without codes is plain text."""

    name: str
    codes: Mapping[str, str]

    def paint(self, row: Row) -> str:
        """The row with its codes."""
        return "".join(self.painted(text, style) for text, style in row)

    def painted(self, text: str, style: Style) -> str:
        """A text with the codes of its roles."""
        codes = ";".join(code for role in style if (code := self.codes.get(role)))
        return f"\x1b[{codes}m{text}\x1b[0m" if codes and text else text


THEMES = {
    "dark": Theme("dark", DARK),
    "light": Theme("light", LIGHT),
    "none": Theme("none", ATTRIBUTES),
}


def default_theme(name: str, background: Callable[[], Color | None]) -> Theme:
    """None with NO_COLOR, the one of that name, else what suits the background of the terminal; dark if none is known.

    background: asks the terminal for its colour, where the environment does not say enough.
    """
    if os.environ.get("NO_COLOR"):
        return THEMES["none"]
    if name in THEMES:
        return THEMES[name]
    if match := re.fullmatch(r"\d+;(?:\w+;)?(\d+)", os.environ.get("COLORFGBG", "")):
        return THEMES["light" if int(match[1]) in (7, *range(9, 16)) else "dark"]
    color = background()
    return THEMES["light" if color and 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 0.5 else "dark"]


def color_of(reply: bytes) -> Color | None:
    """The colour in a terminal's reply to OSC 11."""
    match = re.search(rb"\x1b\]11;rgba?:([0-9a-fA-F]+)/([0-9a-fA-F]+)/([0-9a-fA-F]+)", reply)
    if match is None:
        return None
    red, green, blue = (int(part, 16) / (16 ** len(part) - 1) for part in match.groups())
    return red, green, blue
