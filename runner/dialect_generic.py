"""Calls as plain JSON, for models whose template says nothing of tools, or nothing that is known here."""

from collections.abc import Mapping, Sequence
from typing import Any

from llmrun.runner.answer_reader import AnswerReader, NotACall, Wait
from llmrun.runner.tool import Tool
from llmrun.runner.tool_dialect import Messages, ToolDialect, call_text
from llmrun.runner.tool_grammar import Marker, literal

_FENCE = "```"
_TAGS = {"<tool_call>": "</tool_call>"}  # the most usual markers; models that know them write them unasked


class GenericReader(AnswerReader):
    """A call is a JSON object, or an array of them, that begins a line, alone or in a code block."""

    line_openers = ("{", "[", _FENCE, *_TAGS)

    def call(self, opener: str) -> Wait:
        """Read one call, or those of an array."""
        if opener == _FENCE:
            yield from self.fenced((yield from self.until("\n")))
        elif opener in _TAGS:
            yield from self.json_calls()
            yield from self.option(_TAGS[opener])
        else:
            self.text.back()
            yield from self.json_calls(is_marked=False)
            yield from self.option(";")

    def fenced(self, language: str) -> Wait:
        """Read a code block whose first line, behind the fence, is given."""
        if not language.replace("_", "").isalnum() and language:
            raise NotACall
        yield from self.json_calls(is_marked=False)
        while (yield from self.option(";")) or (yield from self.follows("{")):
            yield from self.json_calls(is_marked=False)
        yield from self.option(_FENCE)


class Generic(ToolDialect):
    """Tells the model of the tools in words, in a system message, unless the template does."""

    reader = GenericReader
    key = "arguments"  # of the object that holds them

    def with_tools(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool]
    ) -> tuple[Messages, list[dict[str, Any]] | None]:
        """Put tools, calls and results into words."""
        if self.knows_tools:
            return super().with_tools(messages, tools)
        said = [self._in_words(message, messages) for message in messages]
        if tools:
            self._tell(said, self.introduction(tools))
        return _merged(said), None

    def introduction(self, tools: Sequence[Tool]) -> str:
        """What the model is told about the tools."""
        form = f'{{"name": "the tool\'s name", "{self.key}": {{"parameter": value}}}}'
        listed = "\n".join(call_text(tool.name, tool.function["parameters"], "parameters") for tool in tools)
        about = "\n".join(f"{tool.name}: {' '.join(tool.description.split())}" for tool in tools if tool.description)
        return (
            f"You can use tools. This is what they are for:\n{about}\n\n"
            f"Their parameters, as JSON schemas:\n{listed}\n\n"
            f"When a tool helps, answer with one line of JSON and nothing else:\n{form}\n"
            "For several calls, write one such line for each. The results come with the next message. "
            "When no tool helps, answer in words."
        )

    def call_rule(self, tool: Tool, arguments: str, marker: Marker) -> str:
        """A line of JSON."""
        return literal(f'{{"name": "{tool.name}", "{self.key}": ') + f' {arguments} "}}"'

    def _in_words(self, message: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        content = message.get("content") or ""
        if calls := message.get("tool_calls"):
            lines = [call_text(call["function"]["name"], call["function"]["arguments"], self.key) for call in calls]
            return {"role": message["role"], "content": "\n".join([content, *lines] if content else lines)}
        if message["role"] == "tool":
            name = message.get("name") or _name_of(message.get("tool_call_id"), messages)
            return {"role": "user", "content": f"Result of {name or 'the tool'}:\n{content}"}
        return dict(message)

    def _tell(self, messages: Messages, text: str) -> None:
        """Add a text to the system message, or to the first of the user where the template has no such messages."""
        has_system = "system" in self.template and "System role not supported" not in self.template
        role = "system" if has_system else "user"
        if messages and messages[0]["role"] == role:
            content = messages[0]["content"]
            both = (content, text) if role == "system" else (text, content)
            messages[0] = {**messages[0], "content": "\n\n".join(filter(None, both))}
        else:
            messages.insert(0, {"role": role, "content": text})


def _name_of(call_id: str | None, messages: Sequence[Mapping[str, Any]]) -> str:
    calls = (call for message in messages for call in message.get("tool_calls") or ())
    return next((str(call["function"]["name"]) for call in calls if call_id and call.get("id") == call_id), "")


def _merged(messages: Messages) -> Messages:
    """Messages in which user and assistant take turns, as many templates demand."""
    merged: Messages = []
    for message in messages:
        last = merged[-1] if merged else None
        if last and message["role"] == last["role"] == "user":
            merged[-1] = {**last, "content": f"{last['content']}\n\n{message['content']}"}
        else:
            merged.append(message)
    return merged
