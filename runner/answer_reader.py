"""Reads an answer as it comes: content, and calls of tools among it."""

import json
import re
from collections.abc import Generator, Mapping
from typing import TypeVar

from llmrun.runner.answer_text import AnswerText, AnswerWriter
from llmrun.runner.json_scanner import JSONScanner, NotJSON
from llmrun.runner.reasoning import overlap
from llmrun.runner.tool import Tool

_WORD = re.compile(r"[A-Za-z0-9_.-]*")
_NAMES = ("name",)
_ARGUMENTS = ("arguments", "parameters")
_OTHERS = ("id", "type")  # what models write beside them

_Result = TypeVar("_Result")
Reading = Generator[None, None, _Result]
"""A generator that yields when it needs more of the answer. It never looks at how the text was cut into pieces."""
Wait = Reading[None]


class NotACall(Exception):
    """What began like a call is none."""


class AnswerReader:
    """Reads an answer of which every character is content or belongs to a call; dialects say how a call looks.

    A call counts where it is well formed and names a tool that was offered. Anything else is content, so that nothing
    of the answer is lost; the text of a call that breaks off after its pieces went out comes as content, too.
    """

    openers: tuple[str, ...] = ()  # texts that may begin a call
    line_openers: tuple[str, ...] = ()  # the same, but only at the beginning of a line

    def __init__(self, text: AnswerText, writer: AnswerWriter, tools: Mapping[str, Tool], prompt_end: str = "") -> None:
        self.text = text
        self.writer = writer
        self.tools = tools
        self.prompt_end = prompt_end
        self._is_line_start = True
        self._n_released = 0  # characters that become content if the call is none

    def read(self) -> Wait:
        """Read all."""
        while opener := (yield from self._content()):
            self.text.settle()
            self._n_released = len(opener)
            try:
                self.text.at += len(opener)
                yield from self.call(opener)
                self._is_line_start = True
            except (NotACall, NotJSON):
                self.writer.abandon_call()
                self.text.back()
                self._write(self.text.take(self._n_released))
            self.text.settle()

    def call(self, opener: str) -> Wait:
        """Read what follows an opener; raises NotACall or NotJSON."""
        raise NotImplementedError

    # what dialects are made of

    def end_call(self) -> None:
        """The call is complete, whatever follows."""
        self.writer.close_call()
        self.text.settle()
        self._n_released = 1

    def json_calls(self, is_marked: bool = True) -> Wait:
        """Read one call written as a JSON object, or an array of them; see `json_call`."""
        if (yield from self.peek()) != "[":
            yield from self.json_call(is_marked)
            return
        self.text.at += 1
        yield from self.json_call(is_marked)
        while (yield from self.option(",")):
            yield from self.json_call(is_marked)
        yield from self.option("]")

    def json_call(self, is_marked: bool = True) -> Wait:
        """Read {"name": ..., "arguments": {...}} and pass the arguments on as they come.

        Where no marker says that it is a call, other keys show that it is none.
        """
        yield from self.expect("{")
        name, arguments, is_open = "", "", False
        while True:
            key = yield from self.json_string()
            yield from self.expect(":")
            if key in _NAMES and not name:
                name = yield from self.json_string(is_name=True)
            elif key in _ARGUMENTS and not arguments:
                is_open = (yield from self.peek()) == "{" and bool(name)
                if is_open:
                    self.writer.open_call(name)
                arguments = yield from self._json_arguments(is_open)
            elif key in _OTHERS or is_marked:
                yield from self.json_value(JSONScanner())
            else:
                raise NotACall
            if not (yield from self.option(",")):
                break
        yield from self.expect("}")
        if name not in self.tools:
            raise NotACall
        if not is_open:
            self.writer.open_call(name)
            self.writer.arguments(arguments or "{}")
        self.end_call()

    def arguments(self, name: str) -> Wait:
        """Read the arguments of a call, an object, and pass them on as they come."""
        if name not in self.tools or (yield from self.peek()) != "{":
            raise NotACall
        self.writer.open_call(name)
        yield from self.json_value(JSONScanner(), is_argument=True)
        self.end_call()

    def word(self) -> Reading[str]:
        """Read the name of a tool that is not quoted; gives up as soon as no tool is called so."""
        while True:
            word = _WORD.match(self.text.text, self.text.at)
            assert word is not None
            self._check_name(word[0])
            if word.end() < len(self.text.text):
                self.text.at = word.end()
                return word[0]
            yield from self.more()

    def peek(self) -> Reading[str]:
        """Skip white space; returns the character that follows."""
        while True:
            rest = self.text.rest
            if said := rest.lstrip():
                self.text.at += len(rest) - len(said)
                return said[0]
            yield from self.more()

    def follows(self, *chars: str) -> Reading[bool]:
        """Whether one of these characters comes after white space; skips nothing."""
        while True:
            said = self.text.rest.lstrip()
            if said or self.text.is_ended:
                return said.startswith(chars)
            yield

    def expect(self, literal: str) -> Wait:
        """Skip white space and this text, which has to come."""
        if not (yield from self.option(literal)):
            raise NotACall

    def option(self, *literals: str) -> Reading[str]:
        """Skip white space and one of these texts, if it comes; returns it, or "" and skips nothing."""
        while True:
            rest = self.text.rest
            said = rest.lstrip()
            for literal in literals:
                if said.startswith(literal):
                    self.text.at += len(rest) - len(said) + len(literal)
                    return literal
            if self.text.is_ended or not any(literal.startswith(said) for literal in literals):
                return ""
            yield

    def until(self, *ends: str) -> Reading[str]:
        """Read up to the first of these texts, and that text; returns what was before it."""
        start = self.text.at
        while True:
            hits = [(at, end) for end in ends if (at := self.text.text.find(end, start)) >= 0]
            if hits:
                at, end = min(hits)
                self.text.at = at + len(end)
                return self.text.text[start:at]
            yield from self.more()

    def json_string(self, is_name: bool = False) -> Reading[str]:
        """Read a string; where it names a tool, give up as soon as no tool is called so."""
        if (yield from self.peek()) != '"':
            raise NotACall
        value = str(json.loads((yield from self.json_value(JSONScanner(), is_name=is_name))))
        if is_name and value not in self.tools:
            raise NotACall
        return value

    def json_value(self, scanner: JSONScanner, is_argument: bool = False, is_name: bool = False) -> Reading[str]:
        """Read a value; returns its text. Pieces of an argument are passed on as they come."""
        value = ""
        while True:
            self.text.at, piece = scanner.feed(self.text.text, self.text.at)
            value += piece
            if is_argument:
                self.writer.arguments(piece)
            if is_name and "\\" not in value:
                self._check_name(value[1:-1] if scanner.is_done else value[1:])
            if scanner.is_done:
                return value
            if not piece:
                yield from self.more()

    def more(self) -> Wait:
        """Wait; a call cannot go on where the answer has ended."""
        if self.text.is_ended:
            raise NotACall
        yield

    def _json_arguments(self, is_argument: bool) -> Reading[str]:
        """Read an object, or one that the model wrote as a string; null is the empty one."""
        first = yield from self.peek()
        value = yield from self.json_value(JSONScanner(), is_argument)
        if first == '"':
            text = json.loads(value)
            scanner = JSONScanner()
            end, value = scanner.feed(text, 0)
            if not scanner.is_done or not value.lstrip().startswith("{") or text[end:].strip():
                raise NotACall
        elif value == "null":
            value = "{}"
        elif first != "{":
            raise NotACall
        return value

    def _check_name(self, begins: str) -> None:
        if not any(name.startswith(begins) for name in self.tools):
            raise NotACall

    def _content(self) -> Reading[str]:
        """Pass content on up to the next opener; returns that, or "" at the end of the answer."""
        while True:
            rest = self.text.rest
            if found := self._find(rest):
                at, _, opener = found
                self._write(self.text.take(at))
                return opener
            n_held = 0 if self.text.is_ended else self._n_held(rest)
            self._write(self.text.take(len(rest) - n_held))
            if self.text.is_ended:
                return ""
            yield

    def _write(self, text: str) -> None:
        if text:
            self.writer.content(text)
            _, newline, line = text.rpartition("\n")
            self._is_line_start = (bool(newline) or self._is_line_start) and not line.strip(" \t")

    def _find(self, rest: str) -> tuple[int, int, str] | None:
        found = [(at, -len(opener), opener) for opener in self.openers if (at := rest.find(opener)) >= 0]
        for line in self._line_starts(rest):
            found += [(line, -len(opener), opener) for opener in self.line_openers if rest.startswith(opener, line)]
        return min(found, default=None)

    def _n_held(self, rest: str) -> int:
        """Length of the end that may be the beginning of an opener."""
        longest = max((overlap(rest, opener) for opener in self.openers), default=0)
        for line in self._line_starts(rest):
            if any(opener.startswith(rest[line:]) for opener in self.line_openers):
                longest = max(longest, len(rest) - line)
        return longest

    def _line_starts(self, rest: str) -> list[int]:
        """Where lines begin, behind the spaces that they begin with."""
        if not self.line_openers:
            return []
        starts = [0] if self._is_line_start else []
        starts += [i + 1 for i, char in enumerate(rest) if char == "\n"]
        return [start + len(rest[start:]) - len(rest[start:].lstrip(" \t")) for start in starts]
