"""What POST /v1/messages takes, and what it means to the engine.

Fields that Anthropic's API defines and a local model cannot serve are listed, so that a request that uses one is told
so; those that ask for what is the case anyway, such as `cache_control`, are taken and change nothing.
"""

import json
from collections.abc import Iterator
from itertools import groupby
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from llmrun.cli.server.openai_fields import Fields, JsonObject, Label, Unsupported, only
from llmrun.quant_formats.errors import UsageError
from llmrun.runner.chat_request import ChatRequest
from llmrun.runner.grammar import Grammar
from llmrun.runner.sampler import SamplingParams
from llmrun.runner.tool import Tool


class CacheControl(Fields):
    """Where a prompt may be cached; here every prompt is, so it changes nothing."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class TextBlock(Fields):
    """Text."""

    type: Literal["text"]
    text: str
    cache_control: CacheControl | None = None
    citations: list[Any] | None = Field(default=None, max_length=0)


class ThinkingBlock(Fields):
    """What the model thought in an earlier turn; the signature is not looked at."""

    type: Literal["thinking"]
    thinking: str
    signature: str = ""


class DirectCaller(Fields):
    """Says that the model itself called the tool."""

    type: Literal["direct"]


class ToolUseBlock(Fields):
    """A call of a tool in an earlier turn."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: JsonObject
    cache_control: CacheControl | None = None
    caller: DirectCaller | None = None
    toolset_name: Unsupported = None


class OtherBlock(Fields):
    """A block that a local model cannot read, whatever else it holds."""

    model_config = ConfigDict(extra="ignore")

    type: Literal[
        "image",
        "document",
        "search_result",
        "redacted_thinking",
        "server_tool_use",
        "web_search_tool_result",
        "web_fetch_tool_result",
        "code_execution_tool_result",
        "bash_code_execution_tool_result",
        "text_editor_code_execution_tool_result",
        "tool_search_tool_result",
        "tool_reference",
        "browser_state",
        "container_upload",
        "mcp_tool_use",
        "mcp_tool_result",
        "compaction",
    ]


ResultBlock = Annotated[TextBlock | OtherBlock, Field(discriminator="type")]


def _text_or_blocks(value: Any) -> str:
    return "blocks" if isinstance(value, list) else "text"


Result = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[ResultBlock], Tag("blocks")], Discriminator(_text_or_blocks)
]


class ToolResultBlock(Fields):
    """What a tool returned."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: Result = ""
    is_error: bool = False
    cache_control: CacheControl | None = None
    toolset_name: Unsupported = None


Block = Annotated[TextBlock | ThinkingBlock | ToolUseBlock | ToolResultBlock | OtherBlock, Field(discriminator="type")]

Content = Annotated[Annotated[str, Tag("text")] | Annotated[list[Block], Tag("blocks")], Discriminator(_text_or_blocks)]


class Message(Fields):
    """A turn, or part of one: messages of one role after another are one turn."""

    role: Literal["user", "assistant", "system"]
    content: Content


class CustomTool(Fields):
    """A tool that the client runs."""

    type: Literal["custom"] | None = None
    name: str = Field(min_length=1, max_length=128)
    description: str = ""
    input_schema: JsonObject
    cache_control: CacheControl | None = None
    strict: bool = False
    eager_input_streaming: bool | None = None
    defer_loading: Literal[False] = False
    allowed_callers: list[Literal["direct"]] | None = None
    input_examples: Unsupported = None


class OtherTool(Fields):
    """A tool that Anthropic defines or runs, whatever else it holds."""

    model_config = ConfigDict(extra="ignore")

    type: str


def _tool_kind(value: Any) -> str:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return "custom" if kind in {None, "custom"} else "other"


AnyTool = Annotated[
    Annotated[CustomTool, Tag("custom")] | Annotated[OtherTool, Tag("other")], Discriminator(_tool_kind)
]


class ToolChoice(Fields):
    """Which tools must or may be called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class Thinking(Fields):
    """Whether the model thinks before it answers; `budget_tokens` is part of `max_tokens`, and not held apart."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = Field(None, ge=1)
    display: Literal["summarized", "omitted"] | None = None


class JsonFormat(Fields):
    """A schema that the answer follows."""

    type: Literal["json_schema"]
    schema_: JsonObject = Field(alias="schema")


class OutputConfig(Fields):
    """How to answer."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: JsonFormat | None = None


class ClearThinking(Fields):
    """Which thoughts of earlier turns to leave out of the prompt; whether any are in it is up to the template."""

    type: Literal["clear_thinking_20251015"]
    keep: Literal["all"]


class ContextManagement(Fields):
    """What to leave out of the prompt: nothing."""

    edits: list[ClearThinking] = Field(default_factory=list)


System = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[TextBlock], Tag("blocks")], Discriminator(_text_or_blocks)
]


class CountTokensBody(Fields):
    """What POST /v1/messages/count_tokens takes: what a prompt is made of."""

    model: str
    messages: list[Message] = Field(min_length=1)
    system: System = ""
    tools: list[AnyTool] = Field(default_factory=list)
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    cache_control: CacheControl | None = None
    context_management: ContextManagement | None = None
    mcp_servers: Annotated[list[Any] | None, only([])] = None
    speed: Annotated[str | None, only("standard")] = None


class MessagesBody(CountTokensBody):
    """What POST /v1/messages takes."""

    max_tokens: int = Field(ge=1)
    stream: bool = False
    stop_sequences: list[str] = Field(default_factory=list)
    temperature: float | None = Field(None, ge=0)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0)
    metadata: Label = None
    service_tier: Annotated[str | None, only("auto", "standard_only")] = None
    container: Unsupported = None
    diagnostics: Unsupported = None
    inference_geo: Unsupported = None


def chat_request(body: CountTokensBody, client: str) -> ChatRequest:
    """What the engine is asked for.

    Raises UsageError, naming the field, for what cannot be served and for what does not fit together.
    """
    params = _params(body) if isinstance(body, MessagesBody) else SamplingParams()
    if body.messages[-1].role == "assistant":
        raise UsageError(f"messages.{len(body.messages) - 1}: the last message must not be the assistant's")
    choice = body.tool_choice or ToolChoice(type="auto")
    config = body.output_config or OutputConfig()
    schema = config.format.schema_ if config.format else None
    return ChatRequest(
        messages=tuple(_messages(body)),
        params=params,
        tools=_tools(body),
        tool_choice=_tool_choice(choice, [tool.name for tool in body.tools if isinstance(tool, CustomTool)]),
        parallel_tool_calls=not choice.disable_parallel_tool_use,
        think=_think(body),
        grammar=None if schema is None else Grammar("json_schema", json.dumps(schema, ensure_ascii=False)),
        template_variables=_effort(config),
        client=client,
    )


def shows_thinking(body: CountTokensBody) -> bool:
    """Whether the client wants to see what the model thinks."""
    return body.thinking is None or body.thinking.display != "omitted"


def _params(body: MessagesBody) -> SamplingParams:
    """As asked, and else as everywhere in llmrun."""
    given = {"temperature": body.temperature, "top_p": body.top_p, "top_k": body.top_k}
    return SamplingParams(
        max_tokens=body.max_tokens,
        stop=body.stop_sequences,
        **{name: value for name, value in given.items() if value is not None},  # type: ignore[arg-type]
    )


def _think(body: CountTokensBody) -> bool | None:
    """As in Anthropic's API, a model thinks only if it is asked to, or left to decide."""
    if body.thinking is None or body.thinking.type == "disabled":
        return False
    if body.thinking.type == "adaptive":
        return None
    budget = body.thinking.budget_tokens
    if budget is None:
        raise UsageError("thinking.budget_tokens is missing; thinking of type 'enabled' needs it")
    if isinstance(body, MessagesBody) and budget >= body.max_tokens:
        raise UsageError(f"thinking.budget_tokens must be less than max_tokens, which is {body.max_tokens}")
    return True


def _effort(config: OutputConfig) -> dict[str, str]:
    """For templates that know it, which have three."""
    if config.effort is None:
        return {}
    return {"reasoning_effort": "high" if config.effort in {"xhigh", "max"} else config.effort}


def _tools(body: CountTokensBody) -> tuple[Tool, ...]:
    for i, tool in enumerate(body.tools):
        if isinstance(tool, OtherTool):
            raise UsageError(
                f"tools.{i}.type: {tool.type!r} is not supported; give a tool of your own, with name and input_schema"
            )
    return tuple(Tool(tool.name, tool.description, tool.input_schema) for tool in body.tools)  # type: ignore[union-attr]


def _tool_choice(choice: ToolChoice, names: list[str]) -> str:
    if choice.type == "tool":
        if choice.name not in names:
            raise UsageError(f"tool_choice.name: there is no tool {choice.name!r} in tools")
        return f"={choice.name}"
    if choice.name is not None:
        raise UsageError("tool_choice.name goes with the type 'tool' only")
    if choice.type == "any" and not names:
        raise UsageError("tool_choice.type 'any' needs tools")
    return {"auto": "auto", "any": "required", "none": "none"}[choice.type]


def _messages(body: CountTokensBody) -> Iterator[dict[str, Any]]:
    """Messages as templates expect them; consecutive ones of a role become one."""
    system = body.system if isinstance(body.system, str) else "\n".join(block.text for block in body.system)
    if system:
        yield {"role": "system", "content": system}
    called: dict[str, str] = {}  # id to name
    numbered = enumerate(body.messages)
    for role, messages in groupby(numbered, key=lambda numbered: numbered[1].role):
        blocks = [block for i, message in messages for block in _blocks(i, message)]
        if role == "assistant":
            yield _assistant(blocks, called)
        elif role == "user":
            yield from _user(blocks, called)
        else:
            yield {"role": "system", "content": "\n".join(text for _, text in _texts(blocks, role))}


Placed = tuple[str, TextBlock | ThinkingBlock | ToolUseBlock | ToolResultBlock]
"""A block, and where in the request it is."""


def _blocks(i: int, message: Message) -> Iterator[Placed]:
    if isinstance(message.content, str):
        yield f"messages.{i}.content", TextBlock(type="text", text=message.content)
        return
    for j, block in enumerate(message.content):
        place = f"messages.{i}.content.{j}"
        if isinstance(block, OtherBlock):
            raise _unreadable(place, block)
        yield place, block


def _texts(blocks: list[Placed], role: str) -> Iterator[tuple[str, str]]:
    for place, block in blocks:
        if not isinstance(block, TextBlock):
            raise UsageError(f"{place}: a {block.type} block cannot be in a message of the {role}")
        yield place, block.text


def _assistant(blocks: list[Placed], called: dict[str, str]) -> dict[str, Any]:
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    for place, block in blocks:
        match block:
            case TextBlock():
                texts.append(block.text)
            case ThinkingBlock():
                thoughts.append(block.thinking)
            case ToolUseBlock():
                called[block.id] = block.name
                function = {"name": block.name, "arguments": block.input}
                calls.append({"id": block.id, "type": "function", "function": function})
            case ToolResultBlock():
                raise UsageError(f"{place}: a tool_result block cannot be in a message of the assistant")
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts)}
    if thoughts:
        message["reasoning_content"] = "\n".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return message


def _user(blocks: list[Placed], called: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Results of tools are messages of their own, in their order between the texts."""
    for is_result, group in groupby(blocks, key=lambda placed: isinstance(placed[1], ToolResultBlock)):
        if not is_result:
            yield {"role": "user", "content": "\n".join(text for _, text in _texts(list(group), "user"))}
            continue
        for place, block in group:
            assert isinstance(block, ToolResultBlock)
            if block.tool_use_id not in called:
                raise UsageError(f"{place}.tool_use_id: no tool_use block before has the id {block.tool_use_id!r}")
            text = _result_text(place, block)
            yield {
                "role": "tool",
                "content": f"Error: {text}" if block.is_error else text,
                "tool_call_id": block.tool_use_id,
                "name": called[block.tool_use_id],
            }


def _result_text(place: str, result: ToolResultBlock) -> str:
    if isinstance(result.content, str):
        return result.content
    texts = []
    for i, block in enumerate(result.content):
        if isinstance(block, OtherBlock):
            raise _unreadable(f"{place}.content.{i}", block)
        texts.append(block.text)
    return "\n".join(texts)


def _unreadable(place: str, block: OtherBlock) -> UsageError:
    return UsageError(f"{place}: blocks of type {block.type!r} are not supported; send text")
