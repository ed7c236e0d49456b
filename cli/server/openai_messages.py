"""Messages of the OpenAI API, and what a chat template makes of them."""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from llmrun.cli.server.errors import BadRequest
from llmrun.cli.server.openai_fields import Fields, Unsupported


class TextPart(Fields):
    """A part of a content: text."""

    type: Literal["text"]
    text: str
    prompt_cache_breakpoint: Any = None  # prefixes are reused wherever they end


class RefusalPart(Fields):
    """A part of what an assistant said: its refusal."""

    type: Literal["refusal"]
    refusal: str


class MediaPart(Fields):
    """A part of a content that is no text."""

    type: Literal["image_url", "input_audio", "file", "video_url"]
    image_url: Any = None
    input_audio: Any = None
    file: Any = None
    video_url: Any = None


Part = Annotated[TextPart | RefusalPart | MediaPart, Field(discriminator="type")]
Content = str | list[Part]


class _NamedMessage(Fields):
    content: Content
    name: str | None = None


class SystemMessage(_NamedMessage):
    """What the application tells the model; newer models call the role developer."""

    role: Literal["system", "developer"]


class UserMessage(_NamedMessage):
    """What a person says."""

    role: Literal["user"]


class ToolMessage(Fields):
    """What a tool answers."""

    role: Literal["tool"]
    content: Content
    tool_call_id: str
    name: str | None = None


class CalledFunction(Fields):
    """A function with the JSON text of its arguments."""

    name: str
    arguments: str


class CallMessage(Fields):
    """A tool call that the model made in an earlier turn."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None  # of the delta that some clients keep


class AssistantMessage(Fields):
    """What the model said in an earlier turn; fields of our own replies may come back as they were."""

    role: Literal["assistant"]
    content: Content | None = None
    refusal: str | None = None
    name: str | None = None
    tool_calls: list[CallMessage] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = Field(None, description="another name of reasoning_content")
    audio: Unsupported = None
    function_call: Unsupported = None
    annotations: list[Any] | None = None  # of replies: nothing for a template


Message = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


def template_messages(messages: Sequence[Message]) -> tuple[dict[str, Any], ...]:
    """Return messages as chat templates want them: contents as text, arguments as objects.

    Tool messages get the name of the function that their call named. Raises BadRequest that says which message holds
    what cannot be used.
    """
    names: dict[str, str] = {}
    ready: list[dict[str, Any]] = []
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        if isinstance(message, AssistantMessage):
            ready.append(_assistant_message(message, where))
            names |= {call.id: call.function.name for call in message.tool_calls or ()}
        elif isinstance(message, ToolMessage):
            turn = {"role": "tool", "content": _text(message.content, where), "tool_call_id": message.tool_call_id}
            name = message.name or names.get(message.tool_call_id)
            ready.append(turn | ({"name": name} if name else {}))
        else:
            role = "system" if message.role == "developer" else message.role
            turn = {"role": role, "content": _text(message.content, where)}
            ready.append(turn | ({"name": message.name} if message.name else {}))
    return tuple(ready)


def _assistant_message(message: AssistantMessage, where: str) -> dict[str, Any]:
    content = message.refusal if message.content is None else _text(message.content, where)
    ready: dict[str, Any] = {"role": "assistant", "content": content or ""}
    reasoning = message.reasoning_content or message.reasoning
    if reasoning:
        ready["reasoning_content"] = reasoning
    if message.tool_calls:
        ready["tool_calls"] = [
            _call(call, f"{where}.tool_calls[{j}].function.arguments") for j, call in enumerate(message.tool_calls)
        ]
    elif content is None:
        raise BadRequest(f"{where} has neither content nor tool_calls; give one of them", where)
    return ready


def _call(call: CallMessage, where: str) -> dict[str, Any]:
    try:
        arguments = json.loads(call.function.arguments or "{}")
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"{where} is not JSON; send what the model called, or leave the call out", where) from error
    if not isinstance(arguments, dict):
        raise BadRequest(f"{where} must be a JSON object", where)
    return {"id": call.id, "type": "function", "function": {"name": call.function.name, "arguments": arguments}}


def _text(content: Content, where: str) -> str:
    """Join the parts of a content, each on lines of its own."""
    if isinstance(content, str):
        return content
    texts: list[str] = []
    for i, part in enumerate(content):
        if isinstance(part, MediaPart):
            name = f"{where}.content[{i}]"
            raise BadRequest(f"{name} is of type {part.type}; llmrun reads text only", name)
        texts.append(part.text if isinstance(part, TextPart) else part.refusal)
    return "\n".join(texts)
