"""Llama 3.1 and later: a JSON object with the arguments under "parameters".

Source: the models' chat templates, and the prompt formats that their maker documents. <|python_tag|> comes before the
object where the model was told of built-in tools, and sometimes where it was not.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from llmrun.runner.answer_reader import Wait
from llmrun.runner.dialect_generic import GenericReader
from llmrun.runner.tool import Tool
from llmrun.runner.tool_dialect import Messages, ToolDialect, one_call_a_message
from llmrun.runner.tool_grammar import Marker, literal

_PYTHON = "<|python_tag|>"


class Llama3Reader(GenericReader):
    """{"name": ..., "parameters": {...}} at the beginning of a line, or behind <|python_tag|>; `;` between several."""

    openers = (_PYTHON,)

    def call(self, opener: str) -> Wait:
        """Read one call, or several behind the tag."""
        if opener != _PYTHON:
            yield from super().call(opener)
            return
        yield from self.json_calls()
        while (yield from self.option(";", ",")) or (yield from self.follows("{")):
            yield from self.json_calls()


class Llama3(ToolDialect):
    """The templates take one call a message, so a model that must call makes one."""

    reader = Llama3Reader
    markers = (_PYTHON,)

    def with_tools(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool]
    ) -> tuple[Messages, list[dict[str, Any]] | None]:
        """Take messages with several calls apart."""
        said, entries = super().with_tools(messages, tools)
        return one_call_a_message(said), entries

    def calls_rule(self, parallel: bool, marker: Marker) -> str:
        """One call."""
        return "calls: call"

    def call_rule(self, tool: Tool, arguments: str, marker: Marker) -> str:
        """An object with name and parameters."""
        return literal(f'{{"name": "{tool.name}", "parameters": ') + f' {arguments} "}}"'
