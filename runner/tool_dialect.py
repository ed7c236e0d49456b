"""How a family of models calls tools: what it is told of them, how it writes a call, how it is made to."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmrun.quant_formats.errors import UsageError
from llmrun.runner.answer_reader import AnswerReader
from llmrun.runner.grammar import Grammar
from llmrun.runner.tokenizer import Tokenizer
from llmrun.runner.tool import Tool
from llmrun.runner.tool_grammar import Marker, arguments_rule, marker_of, thoughts_rule

Messages = list[dict[str, Any]]

MAX_CALLS = 16
"""Calls that a grammar allows in one answer; a small model that must call something may find no end."""


class ToolDialect:
    """The base of all dialects. It holds for one chat template, whose text is `template`."""

    reader: type[AnswerReader]
    markers: tuple[str, ...] = ()
    """Texts that the reader looks for and that are special tokens in some vocabularies."""
    reads_thoughts = False
    """Whether the reader tells thoughts from content itself."""

    def __init__(self, template: str) -> None:
        self.template = template

    @property
    def knows_tools(self) -> bool:
        """Whether the template itself tells the model of tools."""
        return "tools" in self.template

    def with_tools(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool]
    ) -> tuple[Messages, list[dict[str, Any]] | None]:
        """Return the messages as the template can take them, and what to give it as `tools`."""
        return [dict(message) for message in messages], [tool.entry for tool in tools] or None

    def grammar(
        self, tools: Sequence[Tool], choice: str, parallel: bool, tokenizer: Tokenizer, prompt_end: str = ""
    ) -> Grammar:
        """The grammar of an answer that calls one of the tools, or several if `parallel`.

        `choice` is "required" or "=NAME". Arguments are as the tool's schema says. Where the model may or must think
        first (`prompt_end` tells), it can. Raises UsageError for a choice that is not among the tools.
        """
        chosen = chosen_tools(tools, choice)
        marker = marker_of(tokenizer)
        rules = [self.calls_rule(parallel, marker)]
        for i, tool in enumerate(chosen):
            rules.append(f"call_{i}: {self.call_rule(tool, f'arguments_{i}', marker)}")
            rules.append(arguments_rule(f"arguments_{i}", tool))
        rules.append("call: " + " | ".join(f"call_{i}" for i in range(len(chosen))))
        before, more = self.before_calls(marker, prompt_end)
        return Grammar("lark", "\n".join(["%llguidance {}", f"start: {before} calls", *more, *rules, ""]))

    def before_calls(self, marker: Marker, prompt_end: str) -> tuple[str, list[str]]:
        """What may come before the calls: an expression, and the rules that it needs."""
        return thoughts_rule(self.template, prompt_end, marker)

    def calls_rule(self, parallel: bool, marker: Marker) -> str:
        """The rule `calls`, made of `call`."""
        return f'calls: call ("\\n" call){{0,{MAX_CALLS - 1}}}' if parallel else "calls: call"

    def call_rule(self, tool: Tool, arguments: str, marker: Marker) -> str:
        """One call; `arguments` is the rule for its arguments as JSON."""
        raise NotImplementedError


def chosen_tools(tools: Sequence[Tool], choice: str) -> list[Tool]:
    """The tools among which the model has to choose."""
    if choice == "required" and tools:
        return list(tools)
    chosen = [tool for tool in tools if choice == f"={tool.name}"]
    if not chosen:
        known = ", ".join(tool.name for tool in tools) or "none"
        wanted = "a tool" if choice == "required" else f"the tool {choice[1:]!r:.80}"
        raise UsageError(f"tool_choice asks for {wanted}, which is not among the tools of the request: {known}")
    return chosen


def one_call_a_message(messages: Messages) -> Messages:
    """Messages in which each call is followed by its own result, for templates that know one call a message."""
    results = {message.get("tool_call_id"): message for message in messages if message["role"] == "tool"}
    split: Messages = []
    moved: set[int] = set()
    for message in messages:
        calls = message.get("tool_calls") or []
        if len(calls) < 2:
            if id(message) not in moved:
                split.append(message)
            continue
        for i, call in enumerate(calls):
            split.append({**message, "content": message.get("content") if i == 0 else "", "tool_calls": [call]})
            if result := results.get(call.get("id")):
                split.append(result)
                moved.add(id(result))
    return split


def call_text(name: str, arguments: Any, key: str) -> str:
    """A call as one line of JSON."""
    return json.dumps({"name": name, key: arguments}, ensure_ascii=False)


def dialect_of(chat_template: Any) -> ToolDialect:
    """Recognise the dialect by what the chat template (a ChatTemplate, its text, or None) says."""
    from llmrun.runner.dialect_gemma import GemmaCalls, GemmaPrompted
    from llmrun.runner.dialect_generic import Generic
    from llmrun.runner.dialect_harmony import Harmony
    from llmrun.runner.dialect_hermes import Hermes, QwenCoder
    from llmrun.runner.dialect_llama3 import Llama3
    from llmrun.runner.dialect_mistral import Mistral

    template = chat_template if isinstance(chat_template, str) else getattr(chat_template, "source", "")
    known: list[tuple[Callable[[str], ToolDialect], bool]] = [
        (Harmony, "<|channel|>" in template and "<|message|>" in template),
        (Mistral, "[TOOL_CALLS]" in template),
        (GemmaCalls, "<|tool_call>" in template or "<start_function_call>" in template),
        (QwenCoder, "<tool_call>" in template and "<function=" in template),
        (Hermes, "<tool_call>" in template and "<arg_key>" not in template),
        (Llama3, "<|start_header_id|>" in template and '"parameters"' in template and "tools" in template),
        (GemmaPrompted, "<start_of_turn>" in template),
    ]
    return next((dialect(template) for dialect, is_it in known if is_it), Generic(template))
