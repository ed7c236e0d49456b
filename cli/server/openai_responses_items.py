"""Items of the Responses API: what a conversation is made of, and what a chat template makes of them."""

import json
import secrets
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from llmrun.cli.server.openai_fields import Fields
from llmrun.quant_formats.errors import UsageError

Item = dict[str, Any]
"""An item as the API writes it, with an id."""
Status = Literal["in_progress", "completed", "incomplete"]


class TextPart(Fields):
    """Text that the model read."""

    type: Literal["input_text"]
    text: str
    prompt_cache_breakpoint: Any = None  # prefixes are reused wherever they end


class OutputTextPart(Fields):
    """Text that the model wrote."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any] | None = None  # nothing for a template, as are the log probabilities
    logprobs: list[Any] | None = None


class RefusalPart(Fields):
    """A refusal that the model wrote."""

    type: Literal["refusal"]
    refusal: str


class MediaPart(Fields):
    """What is no text."""

    type: Literal["input_image", "input_file", "input_audio"]
    detail: Any = None
    file_data: Any = None
    file_id: Any = None
    file_url: Any = None
    filename: Any = None
    image_url: Any = None
    input_audio: Any = None
    prompt_cache_breakpoint: Any = None


Part = Annotated[TextPart | OutputTextPart | RefusalPart | MediaPart, Field(discriminator="type")]


def _text_or_parts(value: Any) -> str:
    return "parts" if isinstance(value, list) else "text"


Content = Annotated[Annotated[str, Tag("text")] | Annotated[list[Part], Tag("parts")], Discriminator(_text_or_parts)]


class MessageItem(Fields):
    """A message, by anyone."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Content
    id: str | None = None
    status: Status | None = None
    phase: Literal["commentary", "final_answer"] | None = None


class FunctionCallItem(Fields):
    """A call that the model made; `arguments` is the text of a JSON object."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: Status | None = None


class FunctionCallOutputItem(Fields):
    """What a function returned."""

    type: Literal["function_call_output"]
    call_id: str
    output: Content
    id: str | None = None
    status: Status | None = None
    name: str | None = None


class SummaryPart(Fields):
    """A summary of thoughts."""

    type: Literal["summary_text"]
    text: str


class ReasoningPart(Fields):
    """Thoughts as they were."""

    type: Literal["reasoning_text"]
    text: str


class ReasoningItem(Fields):
    """What the model thought; only `content` is read, what is encrypted cannot be."""

    type: Literal["reasoning"]
    summary: list[SummaryPart] = Field(default_factory=list)
    content: list[ReasoningPart] | None = None
    encrypted_content: str | None = None
    id: str | None = None
    status: Status | None = None


class OtherItem(Fields):
    """An item of a tool that OpenAI runs, or a reference to one; whatever else it holds."""

    model_config = ConfigDict(extra="ignore")

    type: str


_KINDS = ("message", "function_call", "function_call_output", "reasoning")


def _kind(value: Any) -> str:
    kind = value.get("type", "message") if isinstance(value, dict) else getattr(value, "type", None)
    return kind if kind in _KINDS else "other"


InputItem = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[FunctionCallItem, Tag("function_call")]
    | Annotated[FunctionCallOutputItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")]
    | Annotated[OtherItem, Tag("other")],
    Discriminator(_kind),
]

_PREFIXES = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}


def new_item_id(kind: str) -> str:
    """Make an id that no other item has."""
    return f"{_PREFIXES[kind]}_{secrets.token_hex(12)}"


def written_items(given: str | Sequence[InputItem]) -> tuple[Item, ...]:
    """Return the input of a request as items with ids, contents as parts, as `input_items` lists them.

    Raises UsageError that names what is not supported.
    """
    if isinstance(given, str):
        given = [MessageItem(role="user", content=given)]
    return tuple(_written(f"input[{i}]", item) for i, item in enumerate(given))


def _written(place: str, item: InputItem) -> Item:
    if isinstance(item, OtherItem):
        raise UsageError(f"{place}: items of type {item.type!r} are not supported")
    written = item.model_dump(exclude_none=True)
    written["id"] = item.id or new_item_id(item.type)
    match item:
        case MessageItem():
            written["status"] = item.status or "completed"
            _check_parts(f"{place}.content", item.content)
            if isinstance(item.content, str):
                kind = "output_text" if item.role == "assistant" else "input_text"
                written["content"] = [{"type": kind, "text": item.content}]
            if item.role == "assistant":
                for part in written["content"]:
                    if part["type"] == "output_text":
                        part.setdefault("annotations", [])
        case FunctionCallItem():
            written["status"] = item.status or "completed"
            if not isinstance(_json(item.arguments), dict):
                raise UsageError(f"{place}.arguments is not the text of a JSON object")
        case FunctionCallOutputItem():
            written["status"] = item.status or "completed"
            _check_parts(f"{place}.output", item.output)
    return written


def _check_parts(place: str, content: Content) -> None:
    for i, part in enumerate(content):
        if isinstance(part, MediaPart):
            raise UsageError(f"{place}[{i}]: parts of type {part.type!r} are not supported; send text")


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def template_messages(items: Iterable[Item]) -> Iterator[dict[str, Any]]:
    """Messages as chat templates want them: what the model thought, said and called in a row is one.

    Raises UsageError for an output of a call that is not there.
    """
    turn: dict[str, Any] | None = None  # of the assistant, in progress
    names: dict[str, str] = {}  # of the functions that were called, by call_id
    for item in items:
        is_output = item["type"] == "function_call_output"
        if is_output or item.get("role", "assistant") != "assistant":
            if turn is not None:
                yield turn
                turn = None
            yield _output(item, names) if is_output else _message(item)
            continue
        if turn is not None and item["type"] == "reasoning" and _has_spoken(turn):
            yield turn
            turn = None
        turn = turn or {"role": "assistant", "content": ""}
        _add(turn, item, names)
    if turn is not None:
        yield turn


def _has_spoken(turn: dict[str, Any]) -> bool:
    return bool(turn["content"]) or "tool_calls" in turn


def _message(item: Item) -> dict[str, Any]:
    role = "system" if item["role"] == "developer" else item["role"]
    return {"role": role, "content": text_of(item["content"])}


def _output(item: Item, names: dict[str, str]) -> dict[str, Any]:
    call = item["call_id"]
    if call not in names:
        raise UsageError(f"no function_call before its output has the call_id {call!r}")
    return {"role": "tool", "content": text_of(item["output"]), "tool_call_id": call, "name": names[call]}


def _add(turn: dict[str, Any], item: Item, names: dict[str, str]) -> None:
    match item["type"]:
        case "reasoning":
            text = text_of(item.get("content") or ())
            turn["reasoning_content"] = turn.get("reasoning_content", "") + text
        case "function_call":
            names[item["call_id"]] = item["name"]
            arguments = _json(item["arguments"])
            function = {"name": item["name"], "arguments": arguments if arguments is not None else item["arguments"]}
            turn.setdefault("tool_calls", []).append({"id": item["call_id"], "type": "function", "function": function})
        case _:
            text = text_of(item["content"])
            turn["content"] = f"{turn['content']}\n{text}" if turn["content"] else text


def text_of(content: str | Iterable[dict[str, Any]]) -> str:
    """Return the text of a content, whose parts follow each other on lines of their own."""
    if isinstance(content, str):
        return content
    return "\n".join(part["refusal"] if part["type"] == "refusal" else part["text"] for part in content)
