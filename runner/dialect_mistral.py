"""Mistral: calls behind the token [TOOL_CALLS].

Source: the chat templates of Mistral Nemo (an array of JSON objects) and Mistral Small 3.2, Devstral and Ministral 3
(the name, then [CALL_ID] and an id in some of them, then [ARGS] and the arguments).
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from llmrun.runner.answer_reader import AnswerReader, NotACall, Wait
from llmrun.runner.tool import Tool
from llmrun.runner.tool_dialect import MAX_CALLS, Messages, ToolDialect
from llmrun.runner.tool_grammar import Marker, literal

_CALLS, _ID, _ARGS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
_ID_LENGTH = 9


class MistralReader(AnswerReader):
    """[TOOL_CALLS][{"name": ..., "arguments": {...}}] or [TOOL_CALLS]name[ARGS]{...}, again for each further call."""

    openers = (_CALLS,)

    def call(self, opener: str) -> Wait:
        """Read the calls behind one marker."""
        if (yield from self.peek()) in "[{":
            yield from self.json_calls()
            return
        name = yield from self.word()
        if (yield from self.option(_ID)):
            yield from self.until(_ARGS)
        else:
            yield from self.option(_ARGS)
        if not name:
            raise NotACall
        yield from self.arguments(name)


class Mistral(ToolDialect):
    """All of Mistral's forms."""

    reader = MistralReader
    markers = (_CALLS, _ID, _ARGS)

    def with_tools(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool]
    ) -> tuple[Messages, list[dict[str, Any]] | None]:
        """Give the calls ids of nine letters, which is all that some of the templates take."""
        said, entries = super().with_tools(messages, tools)
        for message in said:
            if "tool_call_id" in message:
                message["tool_call_id"] = _short(message["tool_call_id"])
            if calls := message.get("tool_calls"):
                message["tool_calls"] = [{**call, "id": _short(call.get("id", ""))} for call in calls]
        return said, entries

    def calls_rule(self, parallel: bool, marker: Marker) -> str:
        """One array, or a marker for each call."""
        more = f"{{0,{MAX_CALLS - 1}}}"
        if _ARGS in self.template:
            return f"calls: call call{more}" if parallel else "calls: call"
        several = f' (", " call){more}' if parallel else ""
        return f'calls: {marker(_CALLS)} "[" call{several} "]"'

    def call_rule(self, tool: Tool, arguments: str, marker: Marker) -> str:
        """The name and the arguments, or an object of both."""
        if _ARGS in self.template:
            return f"{marker(_CALLS)} {literal(tool.name)} {marker(_ARGS)} {arguments}"
        return literal(f'{{"name": "{tool.name}", "arguments": ') + f' {arguments} "}}"'


def _short(call_id: str) -> str:
    """An id of nine letters and digits for this one, always the same."""
    if len(call_id) == _ID_LENGTH and call_id.isalnum():
        return call_id
    return hashlib.sha256(call_id.encode()).hexdigest()[:_ID_LENGTH]
