"""An answer as Anthropic's content blocks, whole or as the events of a stream."""

import json
import secrets
from typing import Any

from llmrun.cli.server.json_text import compact
from llmrun.runner.chat_request import ChatDelta, ChatStream, Usage
from llmrun.runner.tool import ToolCallDelta

Event = dict[str, Any]
"""Named by its "type"."""


class MessageReply:
    """Turns deltas into content blocks: `start`, `push` for every delta, then `end`, each of which returns events.

    The blocks at any time are in `message`, which after `end` is the reply to a request that does not stream.
    """

    def __init__(self, model: str, n_prompt: int, max_tokens: int, shows_thinking: bool) -> None:
        self.message: dict[str, Any] = {
            "id": f"msg_{secrets.token_hex(12)}",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _usage(n_prompt, n_cached=0, n_generated=0),
        }
        self._max_tokens = max_tokens
        self._shows_thinking = shows_thinking
        self._is_open = False  # the last block
        self._arguments = ""  # of the call in progress, JSON

    def start(self) -> list[Event]:
        """The first events, before there is anything to say; what of the prompt was cached is known at the end."""
        return [{"type": "message_start", "message": {**self.message, "content": []}}, {"type": "ping"}]

    def push(self, delta: ChatDelta) -> list[Event]:
        """What a piece of the answer adds."""
        events: list[Event] = []
        if delta.reasoning and self._shows_thinking:
            self._open("thinking", {"type": "thinking", "thinking": "", "signature": ""}, events)
            self._add("thinking", {"type": "thinking_delta", "thinking": delta.reasoning}, events)
        if delta.content:
            self._open("text", {"type": "text", "text": ""}, events)
            self._add("text", {"type": "text_delta", "text": delta.content}, events)
        for call in delta.tool_calls:
            self._push_call(call, events)
        return events

    def end(self, stream: ChatStream) -> list[Event]:
        """The last events, from a stream that has ended."""
        events: list[Event] = []
        self._close(events)
        self.message["stop_reason"] = self._stop_reason(stream)
        self.message["stop_sequence"] = stream.stop_string if self.message["stop_reason"] == "stop_sequence" else None
        self.message["usage"] = _usage_of(stream.usage)
        delta = {name: self.message[name] for name in ("stop_reason", "stop_sequence")}
        return [
            *events,
            {"type": "message_delta", "delta": delta, "usage": self.message["usage"]},
            {"type": "message_stop"},
        ]

    def _stop_reason(self, stream: ChatStream) -> str:
        match stream.finish_reason:
            case "tool_calls":
                return "tool_use"
            case "length":
                is_full = stream.usage.n_generated < self._max_tokens
                return "model_context_window_exceeded" if is_full else "max_tokens"
            case _:
                return "end_turn" if stream.stop_string is None else "stop_sequence"

    @property
    def _blocks(self) -> list[dict[str, Any]]:
        blocks: list[dict[str, Any]] = self.message["content"]
        return blocks

    def _open(self, kind: str, block: dict[str, Any], events: list[Event], anew: bool = False) -> None:
        """Begin a block, unless the last one is of this kind and still open."""
        if not anew and self._is_open and self._blocks[-1]["type"] == kind:
            return
        self._close(events)
        events.append({"type": "content_block_start", "index": len(self._blocks), "content_block": dict(block)})
        self._blocks.append(block)
        self._is_open = True

    def _add(self, field: str, delta: dict[str, str], events: list[Event]) -> None:
        self._blocks[-1][field] += delta[field]
        events.append({"type": "content_block_delta", "index": len(self._blocks) - 1, "delta": delta})

    def _push_call(self, call: ToolCallDelta, events: list[Event]) -> None:
        if call.id is not None:
            block: dict[str, Any] = {"type": "tool_use", "id": tool_use_id(call.id), "name": call.name, "input": {}}
            self._open("tool_use", block, events, anew=True)
        if call.arguments:
            self._arguments += call.arguments
            delta = {"type": "input_json_delta", "partial_json": call.arguments}
            events.append({"type": "content_block_delta", "index": len(self._blocks) - 1, "delta": delta})

    def _close(self, events: list[Event]) -> None:
        if not self._is_open:
            return
        block = self._blocks[-1]
        if block["type"] == "tool_use":
            block["input"] = _object(self._arguments)
            self._arguments = ""
        events.append({"type": "content_block_stop", "index": len(self._blocks) - 1})
        self._is_open = False


def tool_use_id(call_id: str) -> str:
    """The id of a call as Anthropic's clients know them."""
    return f"toolu_{call_id.removeprefix('call_')}"


def _usage_of(usage: Usage) -> dict[str, Any]:
    """Token counts; what was cached is not part of `input_tokens`."""
    counts = _usage(usage.n_prompt, usage.n_cached, usage.n_generated)
    if usage.n_reasoning:
        counts["output_tokens_details"] = {"thinking_tokens": usage.n_reasoning}
    return counts


def event_bytes(event: Event) -> bytes:
    """An event as it goes over the wire."""
    return f"event: {event['type']}\ndata: {compact(event)}\n\n".encode()


def _usage(n_prompt: int, n_cached: int, n_generated: int) -> dict[str, Any]:
    return {
        "input_tokens": n_prompt - n_cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": n_cached,
        "output_tokens": n_generated,
    }


def _object(arguments: str) -> dict[str, Any]:
    """Arguments as the object that the API wants.

    What is not one, such as those of a call that was cut off by `max_tokens`, comes as its text.
    """
    try:
        value = json.loads(arguments or "{}")
    except ValueError:
        value = arguments
    return value if isinstance(value, dict) else {"arguments": arguments}
