"""Code blocks in an answer: what stands between two fences, as in Markdown."""

import re
from dataclasses import dataclass

_FENCE = re.compile(r"^(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})(?P<info>.*)$")


@dataclass(frozen=True)
class CodeBlock:
    """The code, each line with its line break, and whether the closing fence was there."""

    code: str
    is_closed: bool


def last_code_block(text: str) -> CodeBlock | None:
    """The last fenced block of a text, without its fences and their indentation; None if there is none.

    As in CommonMark, a block ends with a fence of the same kind that is at least as long, or with the text. Any
    indentation may come before a fence, because models indent the blocks of a list by what they like.
    """
    blocks: list[CodeBlock] = []
    opening: re.Match[str] | None = None
    lines: list[str] = []
    for line in text.split("\n"):
        found = _FENCE.match(line.removesuffix("\r"))
        if opening is None:
            if found and not (found["fence"][0] == "`" and "`" in found["info"]):  # as in ```code``` within a line
                opening, lines = found, []
        elif found and _closes(found, opening):
            blocks.append(_block(lines, opening, is_closed=True))
            opening = None
        else:
            lines.append(line)
    if opening is not None:
        lines = lines[:-1] if lines and not lines[-1] else lines  # of the line break that ends the text
        blocks.append(_block(lines, opening, is_closed=False))
    return blocks[-1] if blocks else None


def _closes(fence: re.Match[str], opening: re.Match[str]) -> bool:
    return fence["fence"].startswith(opening["fence"]) and not fence["info"].strip()


def _block(lines: list[str], opening: re.Match[str], is_closed: bool) -> CodeBlock:
    width = len(opening["indent"])
    return CodeBlock("".join(_outdented(line, width) + "\n" for line in lines), is_closed)


def _outdented(line: str, width: int) -> str:
    """The line without its first `width` characters, for as far as they are blank."""
    n_blank = len(line) - len(line.lstrip(" \t"))
    return line[min(n_blank, width) :]
