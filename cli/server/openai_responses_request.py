"""What POST /v1/responses takes, and what it means to the engine."""

import json
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, StringConstraints, Tag

from llmrun.cli.server.openai_fields import MAX_TOP_LOGPROBS, Fields, JsonObject, Label, Unsupported, only
from llmrun.cli.server.openai_responses_items import InputItem, Item, template_messages
from llmrun.quant_formats.errors import UsageError
from llmrun.runner.chat_request import ChatRequest
from llmrun.runner.grammar import Grammar
from llmrun.runner.sampler import SamplingParams
from llmrun.runner.tool import Tool


class FunctionTool(Fields):
    """A function that the client runs; its arguments follow the schema, `strict` or not, where a call is required."""

    type: Literal["function"]
    name: str = Field(min_length=1, max_length=128)
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None
    allowed_callers: list[Literal["direct"]] | None = None
    async_: Annotated[bool | None, only(False)] = Field(None, alias="async")
    defer_loading: Annotated[bool | None, only(False)] = None
    output_schema: Unsupported = None


class OtherTool(Fields):
    """A tool that OpenAI runs."""

    model_config = ConfigDict(extra="ignore")

    type: str


def _tool_kind(value: Any) -> str:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return "function" if kind == "function" else "other"


AnyTool = Annotated[
    Annotated[FunctionTool, Tag("function")] | Annotated[OtherTool, Tag("other")], Discriminator(_tool_kind)
]


class FunctionChoice(Fields):
    """The model must call this function; or, among `allowed_tools`, may."""

    type: Literal["function"]
    name: str


class AllowedChoice(Fields):
    """The model may or must call one of a selection of the tools."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[FunctionChoice] = Field(min_length=1)


def _choice_kind(value: Any) -> str | None:
    if not isinstance(value, dict | Fields):
        return "word"
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return kind if kind in {"function", "allowed_tools"} else None


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("word")]
    | Annotated[FunctionChoice, Tag("function")]
    | Annotated[AllowedChoice, Tag("allowed_tools")],
    Discriminator(_choice_kind),
]


class PlainFormat(Fields):
    """Any text, or any JSON object."""

    type: Literal["text", "json_object"]


class SchemaFormat(Fields):
    """JSON of a schema, which is followed whether `strict` or not."""

    type: Literal["json_schema"]
    name: str = Field(min_length=1)
    schema_: JsonObject = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


class TextOptions(Fields):
    """`text`."""

    format: Annotated[PlainFormat | SchemaFormat, Field(discriminator="type")] | None = None
    verbosity: Annotated[str | None, only("medium")] = None


class Reasoning(Fields):
    """`reasoning`; thoughts come whole, never as a summary."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: Annotated[str | None, only("auto")] = None
    generate_summary: Annotated[str | None, only("auto")] = None
    context: Annotated[str | None, only("auto")] = None
    mode: Annotated[str | None, only("standard")] = None


class StreamOptions(Fields):
    """`stream_options`."""

    include_obfuscation: Annotated[bool | None, only(False)] = None


LOGPROBS = "message.output_text.logprobs"
Include = Literal["message.output_text.logprobs", "reasoning.encrypted_content"]
"""What can be asked for besides; thoughts are never encrypted, and come in any case."""
_Key = Annotated[str, StringConstraints(max_length=64)]
_Value = Annotated[str, StringConstraints(max_length=512)]


def _text_or_items(value: Any) -> str:
    return "items" if isinstance(value, list) else "text"


Input = Annotated[Annotated[str, Tag("text")] | Annotated[list[InputItem], Tag("items")], Discriminator(_text_or_items)]


class PromptFields(Fields):
    """What makes a prompt; what POST /v1/responses/input_tokens takes."""

    model: str
    input: Input = Field(default_factory=list)
    instructions: str | None = None
    previous_response_id: str | None = None
    tools: list[AnyTool] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    text: TextOptions | None = None
    truncation: Annotated[str | None, only("disabled")] = None
    conversation: Unsupported = None


class ResponseRequest(PromptFields):
    """A request for a response; what OpenAI's service alone can do is refused unless it is off."""

    background: Annotated[bool | None, only(False)] = None
    context_management: Unsupported = None
    include: list[Include] | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    max_tool_calls: int | None = None  # counts calls of OpenAI's own tools, of which there are none
    metadata: dict[_Key, _Value] | None = Field(None, max_length=16)
    moderation: Unsupported = None
    prompt: Unsupported = None
    prompt_cache_key: Label = None
    prompt_cache_options: Unsupported = None
    prompt_cache_retention: Annotated[str | None, only("in_memory")] = None
    safety_identifier: Label = None
    service_tier: Annotated[str | None, only("auto", "default")] = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0)
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    top_p: float | None = Field(None, gt=0, le=1)
    user: Label = None

    @property
    def params(self) -> SamplingParams:
        """How tokens are chosen: as asked, and else as everywhere in llmrun."""
        wants_logprobs = bool(self.top_logprobs) or LOGPROBS in (self.include or ())
        given = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_output_tokens,
            "logprobs": self.top_logprobs or 0 if wants_logprobs else None,
        }
        return SamplingParams(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]


def chat_request(body: PromptFields, items: Iterable[Item], client: str) -> ChatRequest:
    """What the engine is asked for; `items` are the input and what came before it.

    Raises UsageError, naming the field, for what is not supported or does not fit together.
    """
    tools, choice = _tools(body)
    messages = list(template_messages(items))
    if body.instructions:
        messages.insert(0, {"role": "system", "content": body.instructions})
    if not messages:
        raise UsageError("input is empty; give at least one item, or instructions")
    effort = body.reasoning.effort if body.reasoning else None
    return ChatRequest(
        messages=tuple(messages),
        params=body.params if isinstance(body, ResponseRequest) else SamplingParams(),
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        think=None if effort is None else effort != "none",
        grammar=_grammar(body.text),
        template_variables=_template_variables(effort),
        client=client,
    )


def _template_variables(effort: str | None) -> dict[str, str]:
    """Templates that know efforts know three."""
    if effort is None or effort == "none":
        return {}
    return {"reasoning_effort": {"minimal": "low", "xhigh": "high", "max": "high"}.get(effort, effort)}


def _grammar(text: TextOptions | None) -> Grammar | None:
    match text and text.format:
        case SchemaFormat() as schema:
            return Grammar("json_schema", json.dumps(schema.schema_, ensure_ascii=False))
        case PlainFormat(type="json_object"):
            return Grammar("json_object", "")
    return None


def _tools(body: PromptFields) -> tuple[tuple[Tool, ...], str]:
    """Return the tools that the model is told of, and "auto", "none", "required" or "=NAME"."""
    tools: dict[str, Tool] = {}
    for i, tool in enumerate(body.tools or ()):
        if isinstance(tool, OtherTool):
            raise UsageError(f"tools[{i}].type: {tool.type!r} is not supported; only functions are")
        if tool.name in tools:
            raise UsageError(f"tools has two functions {tool.name!r}; give each a name of its own")
        tools[tool.name] = Tool(tool.name, tool.description or "", tool.parameters or {})
    choice = body.tool_choice
    if isinstance(choice, AllowedChoice):
        names = [_known(allowed, tools) for allowed in choice.tools]
        return tuple(tools[name] for name in dict.fromkeys(names)), choice.mode
    if isinstance(choice, FunctionChoice):
        return tuple(tools.values()), f"={_known(choice, tools)}"
    if choice == "required" and not tools:
        raise UsageError("tool_choice is required, but there are no tools")
    return tuple(tools.values()), choice or "auto"


def _known(choice: FunctionChoice, tools: dict[str, Tool]) -> str:
    if choice.name not in tools:
        raise UsageError(f"tool_choice names {choice.name!r}, which is not among the tools")
    return choice.name
