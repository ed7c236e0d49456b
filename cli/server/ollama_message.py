"""From the messages and tools of Ollama's requests to those that a chat template takes."""

from collections.abc import Iterable, Sequence
from typing import Any

from llmrun.cli.server.ollama_request import MessageBody, ToolBody, ToolCallBody
from llmrun.quant_formats.errors import UsageError
from llmrun.runner.tool import Tool

NO_PARAMETERS = {"type": "object", "properties": {}}


def chat_messages(messages: Sequence[MessageBody]) -> tuple[dict[str, Any], ...]:
    """Translate a conversation.

    Calls of tools get an id if they have none, the same each time, so that the next turn finds its prompt computed; a
    result without an id belongs to the first call of its tool that has no result yet. Raises UsageError for images.
    """
    translated: list[dict[str, Any]] = []
    open_calls: list[tuple[str, str]] = []  # (id, name), oldest first
    n_calls = 0
    for i, message in enumerate(messages):
        refuse_images(message.images, f"messages[{i}].images")
        one: dict[str, Any] = {"role": message.role, "content": message.content or ""}
        if message.thinking:
            one["reasoning_content"] = message.thinking
        if message.tool_calls:
            one["tool_calls"] = [_call(call, n_calls + k) for k, call in enumerate(message.tool_calls)]
            n_calls += len(message.tool_calls)
            open_calls += [(call["id"], call["function"]["name"]) for call in one["tool_calls"]]
        if message.role == "tool":
            one |= _result_of(message, open_calls)
        translated.append(one)
    return tuple(translated)


def chat_tools(tools: Iterable[ToolBody] | None) -> tuple[Tool, ...]:
    """Translate the tools of a request."""
    functions = [tool.function for tool in tools or ()]
    return tuple(Tool(f.name, f.description or "", f.parameters or NO_PARAMETERS) for f in functions)


def refuse_images(images: Sequence[str] | None, name: str) -> None:
    """Raise UsageError if there are any."""
    if images:
        raise UsageError(f"{name} is not supported: no model here can see; leave the images out")


def _call(call: ToolCallBody, n: int) -> dict[str, Any]:
    function = {"name": call.function.name, "arguments": call.function.arguments}
    return {"id": call.id or f"call_{n:024x}", "type": "function", "function": function}


def _result_of(message: MessageBody, open_calls: list[tuple[str, str]]) -> dict[str, str]:
    """The id and the name of the call that a result belongs to; it is taken off the list of open calls."""
    for call in open_calls:
        call_id, name = call
        if message.tool_call_id == call_id or (message.tool_call_id is None and message.tool_name in (None, name)):
            open_calls.remove(call)
            return {"tool_call_id": call_id, "name": name}
    found = {"tool_call_id": message.tool_call_id, "name": message.tool_name}
    return {key: value for key, value in found.items() if value}
