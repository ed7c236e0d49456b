"""Takes an answer apart, as it comes, into thoughts, content and calls of tools."""

from collections.abc import Sequence
from typing import Any

from llmrun.runner.answer_reader import AnswerReader
from llmrun.runner.answer_text import AnswerText, AnswerWriter
from llmrun.runner.delta import Delta
from llmrun.runner.reasoning import TAGS, Reasoning
from llmrun.runner.tokenizer import Tokenizer
from llmrun.runner.tool import Tool, ToolCall
from llmrun.runner.tool_dialect import dialect_of

_TAGS = frozenset(tag for tags in TAGS for tag in tags)


class AnswerParser:
    """Reads the pieces of one answer.

    All deltas together do not depend on how the answer was cut into pieces. Content that may be the beginning of a call
    is held back only as long as it may be. `prompt_end` is the end of the rendered prompt: some templates begin the
    thoughts there. Without tools nothing is a call.

        parser = AnswerParser(chat_template, tokenizer, tools, prompt[-100:])
        for piece in generation:
            for delta in parser.push(piece.text, piece.id): ...
        for delta in parser.flush(): ...
    """

    def __init__(
        self, chat_template: Any, tokenizer: Tokenizer, tools: Sequence[Tool] | None = None, prompt_end: str = ""
    ) -> None:
        """`chat_template`: a ChatTemplate, its text or None."""
        dialect = dialect_of(chat_template)
        self._tokenizer = tokenizer
        self._text, self._writer = AnswerText(), AnswerWriter()
        self._reasoning = None if dialect.reads_thoughts else Reasoning(prompt_end)
        self._markers = _TAGS
        reader = AnswerReader
        if tools or dialect.reads_thoughts:
            self._markers |= frozenset(dialect.markers)
            reader = dialect.reader
        by_name = {tool.name: tool for tool in tools or ()}
        self._reader = reader(self._text, self._writer, by_name, prompt_end).read()

    def push(self, text: str, token: int) -> list[Delta]:
        """Take a piece: the id, and the text that became certain with it, "" for a special token."""
        self._feed(text)
        if self._tokenizer.is_special(token):
            # the decoder gives special tokens no text, but some of them say what the rest is
            marker = self._tokenizer.token_bytes(token).decode("utf-8", "replace")
            if marker in self._markers:
                self._feed(marker)
        return self._writer.take()

    def flush(self) -> list[Delta]:
        """End the answer; returns what was held back."""
        if self._reasoning:
            self._take(self._reasoning.finish())
        self._text.is_ended = True
        for _ in self._reader:
            pass
        self._writer.finish()
        return self._writer.take()

    @property
    def tool_calls(self) -> list[ToolCall]:
        """The calls so far that are complete."""
        return list(self._writer.calls)

    def _feed(self, text: str) -> None:
        if text:
            self._take(self._reasoning.feed(text) if self._reasoning else [(False, text)])
            next(self._reader, None)

    def _take(self, parts: list[tuple[bool, str]]) -> None:
        if self._reasoning and self._reasoning.has_thoughts:
            self._writer.has_thoughts = True
        for is_thought, part in parts:
            if is_thought:
                self._writer.reasoning(part)
            else:
                self._text.text += part
