"""The notation in which FunctionGemma and Gemma 4 write arguments: {key:value,...} with marks around strings."""

import json
import re
from typing import Any

from llmrun.runner.json_scanner import MAX_DEPTH, NotJSON

QUOTES = ('<|"|>', "<escape>")
"""Marks before and after a string, Gemma 4's and FunctionGemma's; inside, every character stands for itself."""

_SPACE = re.compile(r"\s*")
_KEY = re.compile(r"[^\s:,{}\[\]\"<]+")
_SCALAR = re.compile(r"[^,{}\[\]]+")


def gemma_value(text: str) -> Any:
    """Read one value, JSON or the notation, as JSON has it; raises NotJSON."""
    reader = _Notation(text)
    value = reader.value(0)
    if reader.next_char():
        raise NotJSON
    return value


class _Notation:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def next_char(self) -> str:
        """Skip white space; the character that follows, "" at the end."""
        space = _SPACE.match(self._text, self._at)
        self._at = space.end() if space else self._at
        return self._text[self._at : self._at + 1]

    def value(self, depth: int) -> Any:
        char = self.next_char()
        if depth > MAX_DEPTH or not char:
            raise NotJSON
        if char == "{":
            pairs: dict[str, Any] = {}
            while self._goes_on("}", is_first=not pairs):
                key = self._key()
                pairs[key] = self.value(depth + 1)
            return pairs
        if char == "[":
            values: list[Any] = []
            while self._goes_on("]", is_first=not values):
                values.append(self.value(depth + 1))
            return values
        if (string := self._string(char)) is not None:
            return string
        return _scalar(self._match(_SCALAR).strip())

    def _goes_on(self, closer: str, is_first: bool) -> bool:
        """Step over the opening bracket, a comma or the closing bracket; whether there is another part."""
        char = self.next_char()
        self._at += 1
        if is_first and self.next_char() != closer:
            return True
        if is_first:
            self._at += 1
            return False
        if char not in (",", closer):
            raise NotJSON
        return char == ","

    def _key(self) -> str:
        string = self._string(self.next_char())
        key = self._match(_KEY) if string is None else string
        if self.next_char() != ":":
            raise NotJSON
        self._at += 1
        return key

    def _string(self, char: str) -> str | None:
        """The string that begins here, None if none does."""
        if char == '"':
            try:
                value, self._at = json.JSONDecoder(strict=False).raw_decode(self._text, self._at)
            except ValueError as error:
                raise NotJSON from error
            return str(value)
        quote = next((quote for quote in QUOTES if self._text.startswith(quote, self._at)), "")
        if not quote:
            return None
        start = self._at + len(quote)
        end = self._text.find(quote, start)
        if end < 0:
            raise NotJSON
        self._at = end + len(quote)
        return self._text[start:end]

    def _match(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:
            raise NotJSON
        self._at = found.end()
        return found[0]


def _scalar(text: str) -> Any:
    """A number, true, false or null; a string whose marks the model forgot."""
    try:
        return json.loads(text, parse_constant=str)
    except ValueError:
        return text
