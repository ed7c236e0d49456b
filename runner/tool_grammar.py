"""Pieces of Lark grammars, as llguidance reads them, for calls of tools."""

import json
import re
from collections.abc import Callable
from typing import Any

from llmrun.runner.json_schema import prepare_schema
from llmrun.runner.reasoning import TAGS, end_of_thoughts
from llmrun.runner.tokenizer import Tokenizer
from llmrun.runner.tool import Tool

Marker = Callable[[str], str]
"""Turns a text that may be a special token into a symbol of the grammar."""

_LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""JSON as templates show it to the models; free white space would let a small model write nothing else."""

_SPACE = r"/[ \n]{0,2}/"


def literal(text: str) -> str:
    """The symbol for this text."""
    return json.dumps(text, ensure_ascii=False)


def marker_of(tokenizer: Tokenizer) -> Marker:
    """A special token is named by its id; anything else is text, which the model may write with any tokens."""

    def marker(text: str) -> str:
        token = tokenizer.token_id(text)
        return f"<[{token}]>" if token is not None and tokenizer.is_special(token) else literal(text)

    return marker


def json_rule(name: str, schema: Any) -> str:
    """The rule for JSON of a schema."""
    prepared = {**prepare_schema(schema, bounded=True), "x-guidance": _LAYOUT}
    return f"{name}: %json {json.dumps(prepared, ensure_ascii=False)}"


def arguments_rule(name: str, tool: Tool) -> str:
    """The rule for the arguments of a tool."""
    return json_rule(name, tool.schema)


def text_until(name: str, end: str, marker: Marker) -> str:
    """The rule for any text up to `end`, and that."""
    symbol = marker(end)
    if symbol.startswith("<["):
        return f"{name}: /(.|\\n)*/ {symbol}"
    return f"{name}[lazy]: /(.|\\n)*{_escaped(end)}/"


def thoughts_rule(template: str, prompt_end: str, marker: Marker) -> tuple[str, list[str]]:
    """Thoughts before a call: needed where the prompt begins them, allowed where the template knows of them."""
    if ends := end_of_thoughts(prompt_end):
        return "thoughts", [f"thoughts: rest_of_thoughts {_SPACE}", text_until("rest_of_thoughts", ends, marker)]
    if any(prompt_end.rstrip().endswith(ends) for _, ends in TAGS):  # the prompt ended them
        return "", []
    for begins, ends in TAGS:
        if begins in template:
            rule = f"thoughts: {marker(begins)} rest_of_thoughts {_SPACE}"
            return "thoughts?", [rule, text_until("rest_of_thoughts", ends, marker)]
    return "", []


def _escaped(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_ ]", lambda char: f"\\x{{{ord(char[0]):x}}}", text)
