"""Hermes and Qwen: calls between <tool_call> tags.

Sources: the chat templates of Hermes 2 Pro, Qwen 2.5, Qwen 3 (JSON inside the tags) and Qwen3-Coder, Qwen 3.5 (an
element for each parameter).
"""

import json
from typing import Any

from llmrun.runner.answer_reader import AnswerReader, NotACall, Reading, Wait
from llmrun.runner.tool import Tool
from llmrun.runner.tool_dialect import ToolDialect
from llmrun.runner.tool_grammar import Marker, literal

_BEGIN, _END = "<tool_call>", "</tool_call>"
_FUNCTION, _END_FUNCTION = "<function=", "</function>"
_PARAMETER, _END_PARAMETER = "<parameter=", "</parameter>"


class HermesReader(AnswerReader):
    """<tool_call>{"name": ..., "arguments": {...}}</tool_call>, or the same with <function=name> elements inside.

    A model that knows one form sometimes writes the other, so both are read.
    """

    openers = (_BEGIN, _FUNCTION)

    def call(self, opener: str) -> Wait:
        """Read what is between the tags."""
        if opener == _FUNCTION or (yield from self.option(_FUNCTION)):
            yield from self._function()
            while (yield from self.option(_FUNCTION)):
                yield from self._function()
        else:
            yield from self.json_calls()
            while (yield from self.follows("{", "[")):
                yield from self.json_calls()
        yield from self.option(_END)

    def _function(self) -> Wait:
        name = yield from self.word()
        tool = self.tools.get(name)
        if tool is None:
            raise NotACall
        yield from self.expect(">")
        self.writer.open_call(name)
        seen: set[str] = set()
        while (yield from self._one_of(_PARAMETER, _END_FUNCTION)) == _PARAMETER:
            key = yield from self.until(">")
            value = yield from self.until(_END_PARAMETER)
            if key in seen:
                raise NotACall
            self.writer.arguments(f"{', ' if seen else '{'}{_dumped(key)}: {_dumped(_value(tool, key, value))}")
            seen.add(key)
        self.writer.arguments("}" if seen else "{}")
        self.end_call()

    def _one_of(self, *literals: str) -> Reading[str]:
        literal = yield from self.option(*literals)
        if not literal:
            raise NotACall
        return literal


class Hermes(ToolDialect):
    """JSON between tags."""

    reader = HermesReader
    markers = (_BEGIN, _END)

    def call_rule(self, tool: Tool, arguments: str, marker: Marker) -> str:
        """JSON between tags, on a line of its own."""
        begin = literal(f'\n{{"name": "{tool.name}", "arguments": ')
        return f'{marker(_BEGIN)} {begin} {arguments} "}}\\n" {marker(_END)}'


class QwenCoder(Hermes):
    """An element for each parameter.

    A text in such an element has no end that a schema could rule, so a model that must call writes JSON between the
    tags, which it knows from its predecessors.
    """


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _value(tool: Tool, key: str, text: str) -> Any:
    """The value of a parameter: as it stands where the schema allows a string, else JSON."""
    text = text.removeprefix("\n").removesuffix("\n")
    schema = tool.schema["properties"].get(key, {})
    kinds = _kinds(schema)
    if "string" in kinds and not ("null" in kinds and text == "null"):
        return text
    if not kinds and not text.lstrip().startswith(("{", "[")):
        return text
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return {"True": True, "False": False, "None": None}.get(text, text)


def _kinds(schema: Any) -> list[str]:
    """The types that a schema names."""
    if not isinstance(schema, dict):
        return []
    kinds = schema.get("type", [])
    named = [kinds] if isinstance(kinds, str) else list(kinds)
    if not named and "enum" in schema:
        named = ["string"] if all(isinstance(value, str) for value in schema["enum"]) else ["null"]
    return named + [kind for word in ("anyOf", "oneOf") for part in schema.get(word, ()) for kind in _kinds(part)]


def _no_constant(name: str) -> Any:
    raise ValueError(name)
