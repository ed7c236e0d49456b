"""What an answer has to look like."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

from llmrun.quant_formats.errors import UsageError

Kind = Literal["json_schema", "json_object", "regex", "lark", "gbnf"]


@dataclass(frozen=True)
class Grammar:
    """A JSON schema, any JSON object, a regular expression, or a grammar in Lark's or GBNF's notation.

        Grammar.json_schema({"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]})

    It says nothing about whether it makes sense: `GrammarCompiler.constraint` does. Equal grammars are compiled once.
    """

    kind: Kind
    source: str = ""  # the schema as JSON with its keys in their order, which the answer keeps; "" for json_object
    after: str = ""  # free text up to this comes first, such as "</think>"; it is part of the answer

    @classmethod
    def json_schema(cls, schema: Mapping[str, object] | bool, after: str = "") -> Self:
        """JSON that validates against a schema.

        Raises UsageError if the schema is no JSON object, true or false.
        """
        if not isinstance(schema, Mapping | bool):
            raise UsageError(f"a JSON schema is an object, true or false, not {type(schema).__name__}")
        try:
            source = json.dumps(schema, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise UsageError(f"the JSON schema cannot be written as JSON: {error}") from error
        return cls("json_schema", source, after)

    @classmethod
    def json_schema_text(cls, text: str, after: str = "") -> Self:
        """The same from JSON text; raises UsageError also if it is none."""
        try:
            schema = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"the schema is not JSON: {error}") from error
        return cls.json_schema(schema, after)

    @classmethod
    def json_object(cls, after: str = "") -> Self:
        """Any JSON object."""
        return cls("json_object", "", after)

    @classmethod
    def regex(cls, pattern: str, after: str = "") -> Self:
        """A text that a regular expression matches from beginning to end."""
        return cls("regex", pattern, after)

    @classmethod
    def lark(cls, text: str, after: str = "") -> Self:
        """A text that a grammar in llguidance's variety of Lark derives from its rule `start`."""
        return cls("lark", text, after)

    @classmethod
    def gbnf(cls, text: str, after: str = "") -> Self:
        """A text that a grammar in llama.cpp's notation derives from its rule `root`."""
        return cls("gbnf", text, after)
