"""Which grammar a request of the OpenAI API asks its answer to follow."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field

from llmrun.cli.server.errors import BadRequest
from llmrun.cli.server.openai_fields import Fields, JsonObject, RequestFields
from llmrun.runner.grammar import Grammar

_SPECIAL = re.compile(r"[\\.+*?()|\[\]{}^$#&\-~/]")  # what a regular expression reads as something else


class TextFormat(Fields):
    """Any text."""

    type: Literal["text"]


class JsonObjectFormat(Fields):
    """A JSON object; of a schema, where one is given, as llama-server has it."""

    type: Literal["json_object"]
    schema_: JsonObject | None = Field(None, alias="schema")


class NamedSchema(Fields):
    """A JSON schema with a name; it is followed whether `strict` or not."""

    name: str = Field(min_length=1)
    description: str | None = None
    schema_: JsonObject | None = Field(None, alias="schema")
    strict: bool | None = None


class JsonSchemaFormat(Fields):
    """JSON of a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


def grammar_of(fields: RequestFields, response_format: ResponseFormat | None = None) -> Grammar | None:
    """Return the one grammar that a request asks for, or None; two are a BadRequest."""
    asked = {
        "response_format": _of_format(response_format),
        "json_schema": _of_schema(fields.json_schema),
        "grammar": None if fields.grammar is None else Grammar.gbnf(fields.grammar),
        "guided_json": _of_schema(fields.guided_json),
        "guided_regex": None if fields.guided_regex is None else Grammar.regex(fields.guided_regex),
        "guided_choice": _of_choice(fields.guided_choice),
        "guided_grammar": _of_guided_grammar(fields.guided_grammar),
    }
    grammars = {name: grammar for name, grammar in asked.items() if grammar is not None}
    if len(grammars) > 1:
        raise BadRequest(f"{' and '.join(grammars)} cannot be combined; give only one of them", next(iter(grammars)))
    return next(iter(grammars.values()), None)


def _of_format(response_format: ResponseFormat | None) -> Grammar | None:
    if isinstance(response_format, JsonObjectFormat):
        return _of_schema(response_format.schema_) or Grammar.json_object()
    if isinstance(response_format, JsonSchemaFormat):
        return _of_schema(response_format.json_schema.schema_ or {})
    return None


def _of_schema(schema: dict[str, Any] | str | None) -> Grammar | None:
    if schema is None:
        return None
    return Grammar.json_schema_text(schema) if isinstance(schema, str) else Grammar.json_schema(schema)


def _of_choice(choices: list[str] | None) -> Grammar | None:
    if choices is None:
        return None
    if not choices:
        raise BadRequest("guided_choice is empty; give at least one answer", "guided_choice")
    return Grammar.regex("|".join(_SPECIAL.sub(r"\\\g<0>", choice) for choice in choices))


def _of_guided_grammar(source: str | None) -> Grammar | None:
    """Tell the two notations apart as vLLM does: GBNF defines with ::=, Lark with a colon."""
    if source is None:
        return None
    return Grammar.gbnf(source) if "::=" in source else Grammar.lark(source)
