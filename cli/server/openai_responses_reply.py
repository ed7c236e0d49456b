"""An answer as a response of the Responses API: whole, or as the events of a stream."""

import time
from collections.abc import Callable
from typing import Any

from llmrun.cli.server.json_text import compact
from llmrun.cli.server.openai_responses_items import Item, new_item_id
from llmrun.cli.server.openai_responses_request import OtherTool, ResponseRequest
from llmrun.runner.chat_request import ChatDelta, ChatStream, Usage
from llmrun.runner.piece import Piece
from llmrun.runner.sampler import SamplingParams
from llmrun.runner.tool import ToolCallDelta

Event = dict[str, Any]
"""Named by its "type"."""


class ResponseReply:
    """Turns deltas into items: `start`, `push` for every delta, then `end` or `fail`; they return events.

    `response` is, at any time, the response so far.
    """

    def __init__(self, response: dict[str, Any], logprobs_of: Callable[[list[Piece]], list[dict[str, Any]]]) -> None:
        """Begin with a response that has no output; logprobs_of: writes those of the pieces that have some."""
        self.response = response
        self._logprobs_of = logprobs_of
        self._is_open = False  # the last item of the output
        self._n_events = 0

    def start(self) -> list[Event]:
        """The first events, before there is anything to say."""
        return [self._snapshot("response.created"), self._snapshot("response.in_progress")]

    def push(self, delta: ChatDelta) -> list[Event]:
        """What a piece of the answer adds."""
        events: list[Event] = []
        if delta.reasoning:
            self._open_reasoning(events)
            self._item["content"][0]["text"] += delta.reasoning
            events.append(self._event("response.reasoning_text.delta", content_index=0, delta=delta.reasoning))
        if delta.content:
            self._open_message(events)
            part = self._item["content"][0]
            part["text"] += delta.content
            logprobs = self._logprobs_of(delta.pieces)
            part["logprobs"] += logprobs
            events.append(
                self._event("response.output_text.delta", content_index=0, delta=delta.content, logprobs=logprobs)
            )
        for call in delta.tool_calls:
            self._push_call(call, events)
        return events

    def end(self, stream: ChatStream) -> list[Event]:
        """The last events, from a stream that has ended.

        The API has no event of its own for a response that was cancelled; it is incomplete, and its status says why.
        """
        was_cancelled = self.response["status"] == "cancelled"
        is_whole = not was_cancelled and stream.finish_reason != "length"
        events: list[Event] = []
        self._close(events, "completed" if is_whole else "incomplete")
        self.response["usage"] = usage_of(stream.usage)
        if was_cancelled:
            return [*events, self._snapshot("response.incomplete")]
        if not is_whole:
            self.response["incomplete_details"] = {"reason": "max_output_tokens"}
        return [*events, self._finish("completed" if is_whole else "incomplete")]

    def fail(self, message: str) -> list[Event]:
        """The last events of a response that went wrong."""
        events: list[Event] = []
        self._close(events, "incomplete")
        self.response["error"] = {"code": "server_error", "message": message}
        return [*events, self._finish("failed")]

    def abandon(self) -> None:
        """Make a response that nobody reads to its end a cancelled one; nothing if it has ended."""
        if self.response["status"] == "in_progress":
            self._close([], "incomplete")
            self.response["status"] = "cancelled"

    def _finish(self, status: str) -> Event:
        self.response["status"] = status
        if status == "completed":
            self.response["completed_at"] = int(time.time())
        return self._snapshot(f"response.{status}")

    @property
    def _item(self) -> Item:
        item: Item = self.response["output"][-1]
        return item

    def _event(self, kind: str, **fields: Any) -> Event:
        """An event about the last item."""
        place = {"item_id": self._item["id"], "output_index": len(self.response["output"]) - 1}
        return self._numbered({"type": kind, **place, **fields})

    def _item_event(self, kind: str) -> Event:
        """An event with the last item in it, as it is now."""
        item = dict(self._item)
        if "content" in item:
            item["content"] = [dict(part) for part in item["content"]]
        return self._numbered({"type": kind, "output_index": len(self.response["output"]) - 1, "item": item})

    def _snapshot(self, kind: str) -> Event:
        response = {**self.response, "output": list(self.response["output"])}
        return self._numbered({"type": kind, "response": response})

    def _numbered(self, event: Event) -> Event:
        event["sequence_number"] = self._n_events
        self._n_events += 1
        return event

    def _open(self, item: Item, events: list[Event], part: dict[str, Any] | None = None) -> None:
        """Begin an item, with its one part where it has parts."""
        self._close(events, "completed")
        self.response["output"].append(item)
        self._is_open = True
        events.append(self._item_event("response.output_item.added"))
        if part is not None:
            item["content"].append(part)
            events.append(self._event("response.content_part.added", content_index=0, part=dict(part)))

    def _is_in(self, kind: str) -> bool:
        return self._is_open and self._item["type"] == kind

    def _open_message(self, events: list[Event]) -> None:
        if self._is_in("message"):
            return
        item = {
            "id": new_item_id("message"),
            "type": "message",
            "role": "assistant",
            "status": "in_progress",
            "content": [],
        }
        self._open(item, events, {"type": "output_text", "text": "", "annotations": [], "logprobs": []})

    def _open_reasoning(self, events: list[Event]) -> None:
        if self._is_in("reasoning"):
            return
        item = {
            "id": new_item_id("reasoning"),
            "type": "reasoning",
            "status": "in_progress",
            "summary": [],
            "content": [],
        }
        self._open(item, events, {"type": "reasoning_text", "text": ""})

    def _push_call(self, call: ToolCallDelta, events: list[Event]) -> None:
        if call.id is not None:
            item = {
                "id": new_item_id("function_call"),
                "type": "function_call",
                "status": "in_progress",
                "call_id": call.id,
                "name": call.name,
                "arguments": "",
            }
            self._open(item, events)
        if call.arguments:
            self._item["arguments"] += call.arguments
            events.append(self._event("response.function_call_arguments.delta", delta=call.arguments))

    def _close(self, events: list[Event], status: str) -> None:
        """End the last item."""
        if not self._is_open:
            return
        item = self._item
        item["status"] = status
        match item["type"]:
            case "message":
                part = item["content"][0]
                done = {"text": part["text"], "logprobs": part["logprobs"]}
                events.append(self._event("response.output_text.done", content_index=0, **done))
                events.append(self._event("response.content_part.done", content_index=0, part=dict(part)))
            case "reasoning":
                part = item["content"][0]
                events.append(self._event("response.reasoning_text.done", content_index=0, text=part["text"]))
                events.append(self._event("response.content_part.done", content_index=0, part=dict(part)))
            case "function_call":
                done = {"name": item["name"], "arguments": item["arguments"]}
                events.append(self._event("response.function_call_arguments.done", **done))
        events.append(self._item_event("response.output_item.done"))
        self._is_open = False


def new_response(body: ResponseRequest, response_id: str, params: SamplingParams) -> dict[str, Any]:
    """A response that has only begun, with what was asked for."""
    choice, text, reasoning = body.tool_choice, body.text, body.reasoning
    text_format = text.format.model_dump(by_alias=True, exclude_none=True) if text and text.format else {"type": "text"}
    tools = [tool for tool in body.tools or () if not isinstance(tool, OtherTool)]
    return {
        "id": response_id,
        "object": "response",
        "created_at": int(time.time()),
        "completed_at": None,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": body.max_tool_calls,
        "metadata": body.metadata or {},
        "model": body.model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "reasoning": {"effort": reasoning.effort if reasoning else None, "summary": None},
        "service_tier": "default",
        "store": body.store is not False,
        "temperature": params.temperature,
        "text": {"format": text_format, "verbosity": "medium"},
        "tool_choice": choice if isinstance(choice, str) else choice.model_dump() if choice else "auto",
        "tools": [_written_tool(tool.model_dump(by_alias=True, exclude_none=True)) for tool in tools],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": params.top_p,
        "truncation": "disabled",
        "usage": None,
    }


def usage_of(usage: Usage) -> dict[str, Any]:
    """Token counts."""
    return {
        "input_tokens": usage.n_prompt,
        "input_tokens_details": {"cached_tokens": usage.n_cached, "cache_write_tokens": 0},
        "output_tokens": usage.n_generated,
        "output_tokens_details": {"reasoning_tokens": usage.n_reasoning},
        "total_tokens": usage.n_prompt + usage.n_generated,
    }


def event_bytes(event: Event) -> bytes:
    """An event as it goes over the wire."""
    return f"event: {event['type']}\ndata: {compact(event)}\n\n".encode()


def _written_tool(tool: dict[str, Any]) -> dict[str, Any]:
    return {"parameters": None, "strict": False, **tool}
