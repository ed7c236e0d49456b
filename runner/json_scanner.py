"""Finds the end of a JSON value that is still being written."""

import re
from enum import Enum, auto


class NotJSON(Exception):
    """The text cannot become a JSON value."""


MAX_DEPTH = 128
"""Arrays and objects inside each other; deeper ones are refused, as they would be a trap for whoever parses them."""

_PLAIN = re.compile(r'[^"\\\x00-\x1f]+')
_SPACE = re.compile(r"[ \t\r\n]+")
_SCALAR = re.compile(r"[-+.0-9A-Za-z]+")
_WHOLE_SCALAR = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|true|false|null")
_ESCAPE = re.compile(r'["\\/bfnrt]|u[0-9A-Fa-f]{4}')
_PART_OF_ESCAPE = re.compile(r"u[0-9A-Fa-f]{0,3}|")
_CONTROL = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\b": "\\b", "\f": "\\f"}


class _Expects(Enum):
    VALUE = auto()
    ITEM_OR_END = auto()
    KEY = auto()
    KEY_OR_END = auto()
    COLON = auto()
    COMMA_OR_END = auto()
    STRING = auto()  # the rest of one


class JSONScanner:
    """Reads one value piece by piece, and notices the first character that is wrong.

    Control characters that stand in a string as they are, which models write and JSON forbids, come out escaped.
    A number at the top level ends at the first character that does not belong to it, so it needs one.
    """

    def __init__(self) -> None:
        self._expects = _Expects.VALUE
        self._closers: list[str] = []  # of the arrays and objects that are open, the innermost last
        self._is_key = False  # the string that is being read
        self.is_done = False

    def feed(self, text: str, at: int) -> tuple[int, str]:
        """Read `text` from `at` on; returns where the certain part ends, and that part as JSON.

        What lies behind that end is to be fed again, with more text if nothing was certain. Raises NotJSON where the
        first character is wrong, so that all that is right came out before.
        """
        out: list[str] = []
        start = at
        while at < len(text) and not self.is_done:
            try:
                end = self._string(text, at, out) if self._expects is _Expects.STRING else self._token(text, at, out)
            except NotJSON:
                if at == start:
                    raise
                break
            if end == at:
                break
            at = end
        return at, "".join(out)

    def _token(self, text: str, at: int, out: list[str]) -> int:
        if space := _SPACE.match(text, at):
            out.append(space[0])
            return space.end()
        char, expects = text[at], self._expects
        is_value = expects in (_Expects.VALUE, _Expects.ITEM_OR_END)
        if char == '"' and (is_value or expects in (_Expects.KEY, _Expects.KEY_OR_END)):
            self._is_key, self._expects = not is_value, _Expects.STRING
        elif char in "{[" and is_value:
            if len(self._closers) == MAX_DEPTH:
                raise NotJSON
            self._closers.append("}" if char == "{" else "]")
            self._expects = _Expects.KEY_OR_END if char == "{" else _Expects.ITEM_OR_END
        elif char in "}]" and self._may_close(char):
            self._closers.pop()
            self._end_value()
        elif char == ":" and expects is _Expects.COLON:
            self._expects = _Expects.VALUE
        elif char == "," and expects is _Expects.COMMA_OR_END:
            self._expects = _Expects.KEY if self._closers[-1] == "}" else _Expects.VALUE
        elif is_value:
            return self._scalar(text, at, out)
        else:
            raise NotJSON
        out.append(char)
        return at + 1

    def _may_close(self, char: str) -> bool:
        allowed = (_Expects.COMMA_OR_END, _Expects.KEY_OR_END, _Expects.ITEM_OR_END)
        return self._expects in allowed and self._closers[-1] == char

    def _scalar(self, text: str, at: int, out: list[str]) -> int:
        scalar = _SCALAR.match(text, at)
        if scalar is None:
            raise NotJSON
        if scalar.end() == len(text):  # may go on
            return at
        if not _WHOLE_SCALAR.fullmatch(scalar[0]):
            raise NotJSON
        out.append(scalar[0])
        self._end_value()
        return scalar.end()

    def _string(self, text: str, at: int, out: list[str]) -> int:
        if plain := _PLAIN.match(text, at):
            out.append(plain[0])
            return plain.end()
        char = text[at]
        if char == '"':
            out.append(char)
            if self._is_key:
                self._expects = _Expects.COLON
            else:
                self._end_value()
            return at + 1
        if char != "\\":
            out.append(_CONTROL.get(char) or f"\\u{ord(char):04x}")
            return at + 1
        if escape := _ESCAPE.match(text, at + 1):
            out.append("\\" + escape[0])
            return escape.end()
        if _PART_OF_ESCAPE.fullmatch(text, at + 1):
            return at
        raise NotJSON

    def _end_value(self) -> None:
        self._expects = _Expects.COMMA_OR_END
        self.is_done = not self._closers
