"""gpt-oss: messages on channels.

Source: the harmony response format as OpenAI documents it. An answer is a row of messages,

    <|channel|>analysis<|message|>thoughts<|end|>
    <|start|>assistant<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{...}<|call|>
    <|start|>assistant<|channel|>final<|message|>what the user sees<|return|>

of which the prompt has written the beginning of the first. The recipient may also stand before the channel.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from llmrun.runner.answer_reader import AnswerReader, NotACall, Reading, Wait
from llmrun.runner.json_scanner import NotJSON
from llmrun.runner.reasoning import overlap
from llmrun.runner.tool import Tool
from llmrun.runner.tool_dialect import Messages, ToolDialect, one_call_a_message
from llmrun.runner.tool_grammar import Marker, literal, text_until

_START, _CHANNEL, _MESSAGE, _CONSTRAIN = "<|start|>", "<|channel|>", "<|message|>", "<|constrain|>"
_END, _CALL, _RETURN = "<|end|>", "<|call|>", "<|return|>"
_ENDS = (_END, _CALL, _RETURN, _START, _CHANNEL)  # of a message; the last two where a model forgot the end
_BEGINS = (_START, _CHANNEL, _CONSTRAIN, "assistant", "to=")  # of a header
_RECIPIENT = re.compile(r"\bto=functions\.([A-Za-z0-9_.-]+)")
_THOUGHTS = "analysis"

MAX_HEADER = 300
"""Characters before <|message|>; more is no header, whatever it is."""


class HarmonyReader(AnswerReader):
    """Thoughts are what is on the channel analysis; a call is a message to a function that was offered."""

    def read(self) -> Wait:
        """Read message by message."""
        _, start, begun = self.prompt_end.rpartition(_START)
        header, message, _ = begun.partition(_MESSAGE) if start else ("assistant", "", "")
        is_read = bool(message)  # whether the prompt has written the whole header
        while is_read or self.text.rest or not self.text.is_ended:
            if not self.text.rest and not is_read:
                yield
                continue
            self._n_released = 0
            if not is_read:
                header += yield from self._header()
            is_read = False
            try:
                yield from self._body(header)
            except (NotACall, NotJSON):
                self.writer.abandon_call()
                self.text.back()
                self.writer.content(self.text.take(self._n_released))
                yield from self._said(is_thought=False)
            self.text.settle()
            header = ""

    def _header(self) -> Reading[str]:
        """Read up to <|message|>; what is no header stays to be read as content."""
        while (at := self.text.text.find(_MESSAGE)) < 0:
            said = self.text.text.lstrip()
            is_header = any(said.startswith(begin) or begin.startswith(said) for begin in _BEGINS)
            if not is_header or len(said) > MAX_HEADER:
                return ""
            if self.text.is_ended:  # the answer broke off inside a header, which says nothing
                return self.text.take(len(self.text.text))
            yield
        self.text.at = self._n_released = at + len(_MESSAGE)
        return self.text.text[:at]

    def _body(self, header: str) -> Wait:
        recipient = _RECIPIENT.search(header)
        if recipient:
            yield from self.arguments(recipient[1])
            yield from self.option(*_ENDS)
        elif "to=" in header:  # a tool that nobody offered
            raise NotACall
        else:
            self.text.settle()
            self.writer.paragraph()
            yield from self._said(is_thought=_THOUGHTS in header)

    def _said(self, is_thought: bool) -> Wait:
        """Pass the message on up to its end."""
        write = self.writer.reasoning if is_thought else self.writer.content
        while True:
            rest = self.text.rest
            hits = [(at, end) for end in _ENDS if (at := rest.find(end)) >= 0]
            if hits:
                at, end = min(hits)
                write(self.text.take(at))
                self.text.at = len(end)
                return
            n_held = 0 if self.text.is_ended else max(overlap(rest, end) for end in _ENDS)
            write(self.text.take(len(rest) - n_held))
            if self.text.is_ended:
                return
            yield


class Harmony(ToolDialect):
    """The templates take one call a message, and <|call|> ends an answer, so a model that must call makes one."""

    reader = HarmonyReader
    markers = (_START, _CHANNEL, _MESSAGE, _CONSTRAIN, _END, _CALL, _RETURN)
    reads_thoughts = True

    def with_tools(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool]
    ) -> tuple[Messages, list[dict[str, Any]] | None]:
        """Take messages with several calls apart."""
        said, entries = super().with_tools(messages, tools)
        return one_call_a_message(said), entries

    def before_calls(self, marker: Marker, prompt_end: str) -> tuple[str, list[str]]:
        """Thoughts on their channel, if the model likes."""
        begin = f'{marker(_CHANNEL)} "{_THOUGHTS}" {marker(_MESSAGE)}'
        rule = f'thoughts: {begin} rest_of_thoughts {marker(_START)} "assistant"'
        return "thoughts?", [rule, text_until("rest_of_thoughts", _END, marker)]

    def calls_rule(self, parallel: bool, marker: Marker) -> str:
        """One call; the token that ends it ends the answer."""
        return "calls: call"

    def call_rule(self, tool: Tool, arguments: str, marker: Marker) -> str:
        """A message to the function."""
        to = literal(f"commentary to=functions.{tool.name} ")
        return f'{marker(_CHANNEL)} {to} {marker(_CONSTRAIN)} "json" {marker(_MESSAGE)} {arguments} {marker(_CALL)}'
