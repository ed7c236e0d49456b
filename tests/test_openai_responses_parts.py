"""OpenAI's Responses API, without a model: items and turns, replies, and the store."""

from dataclasses import dataclass
from typing import Any

import pytest

from llmrun.cli.server.openai_responses_items import template_messages, written_items
from llmrun.cli.server.openai_responses_reply import ResponseReply, new_response
from llmrun.cli.server.openai_responses_request import ResponseRequest, chat_request
from llmrun.cli.server.openai_responses_store import ResponseStore, StoredResponse
from llmrun.quant_formats.errors import UsageError
from llmrun.runner.chat_request import ChatDelta, Usage
from llmrun.runner.tool import ToolCallDelta

TOOLS = [{"type": "function", "name": name, "parameters": {"type": "object"}} for name in ("get_weather", "get_time")]


def request(**fields: Any) -> ResponseRequest:
    return ResponseRequest.model_validate({"model": "m", "input": "Hi"} | fields)


def test_items_become_turns() -> None:
    items = [
        {"role": "developer", "content": "Rules."},
        {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Let me see."}]},
        {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": '{"at": "sky"}'},
        {"type": "function_call", "call_id": "call_2", "name": "hear", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "blue"},
        {"type": "function_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "loud"}]},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "So."}]},
        {"role": "assistant", "content": "It is blue."},
    ]
    assert list(template_messages(written_items(request(input=items).input))) == [
        {"role": "system", "content": "Rules."},
        {"role": "user", "content": "a\nb"},
        {
            "role": "assistant",
            "content": "Let me see.",
            "reasoning_content": "Hm.",
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": {"at": "sky"}}},
                {"id": "call_2", "type": "function", "function": {"name": "hear", "arguments": {}}},
            ],
        },
        {"role": "tool", "content": "blue", "tool_call_id": "call_1", "name": "look"},
        {"role": "tool", "content": "loud", "tool_call_id": "call_2", "name": "hear"},
        {"role": "assistant", "content": "It is blue.", "reasoning_content": "So."},
    ]


@pytest.mark.parametrize(
    ("effort", "think", "variables"),
    [
        (None, None, {}),
        ("none", False, {}),
        ("minimal", True, {"reasoning_effort": "low"}),
        ("medium", True, {"reasoning_effort": "medium"}),
        ("xhigh", True, {"reasoning_effort": "high"}),
    ],
)
def test_effort(effort: str | None, think: bool | None, variables: dict[str, str]) -> None:
    asked = chat_request(request(reasoning={"effort": effort}), written_items("Hi"), "")
    assert asked.think is think
    assert asked.template_variables == variables


def test_allowed_tools() -> None:
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "get_time"}]}
    asked = chat_request(request(tools=TOOLS, tool_choice=allowed), written_items("Hi"), "")
    assert [tool.name for tool in asked.tools] == ["get_time"]
    assert asked.tool_choice == "required"
    allowed["tools"] = [{"type": "function", "name": "f"}]
    with pytest.raises(UsageError, match="'f'"):
        chat_request(request(tools=TOOLS, tool_choice=allowed), written_items("Hi"), "")


USAGE = Usage(n_prompt=10, n_cached=4, n_generated=7, n_reasoning=2)


@dataclass
class EndedStream:
    """What a reply looks at of a stream that has ended."""

    finish_reason: str = "stop"
    usage: Usage = USAGE


def reply() -> ResponseReply:
    body = request()
    return ResponseReply(new_response(body, "resp_1", body.params), lambda pieces: [])


def test_all_kinds_of_items() -> None:
    answer = reply()
    events = answer.start()
    for delta in (
        ChatDelta(reasoning="Hm"),
        ChatDelta(reasoning="."),
        ChatDelta(content="Hello"),
        ChatDelta(tool_calls=(ToolCallDelta(0, "call_a", "look", '{"at":'),)),
        ChatDelta(tool_calls=(ToolCallDelta(0, None, None, '"sky"}'), ToolCallDelta(1, "call_b", "hear", "{}"))),
    ):
        events += answer.push(delta)
    events += answer.end(EndedStream("tool_calls"))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    added = [event["item"] for event in events if event["type"] == "response.output_item.added"]
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert [item["status"] for item in added] == ["in_progress"] * 4
    assert [item.get("content", []) for item in added] == [[]] * 4
    assert done == answer.response["output"]
    assert [item["type"] for item in done] == ["reasoning", "message", "function_call", "function_call"]
    assert done[0]["content"] == [{"type": "reasoning_text", "text": "Hm."}]
    assert [item["arguments"] for item in done[2:]] == ['{"at":"sky"}', "{}"]
    assert [item["call_id"] for item in done[2:]] == ["call_a", "call_b"]
    assert answer.response["status"] == "completed"
    assert answer.response["usage"]["output_tokens_details"] == {"reasoning_tokens": 2}
    assert answer.response["usage"]["input_tokens_details"]["cached_tokens"] == 4
    assert events[-1]["type"] == "response.completed"


def test_failure() -> None:
    answer = reply()
    answer.start()
    answer.push(ChatDelta(content="Hel"))
    events = answer.fail("broken")
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["error"] == {"code": "server_error", "message": "broken"}
    answer.abandon()
    assert answer.response["status"] == "failed"
    assert answer.response["output"][0]["status"] == "incomplete"


def stored(name: str, text: str = "") -> StoredResponse:
    return StoredResponse({"id": name, "output": []}, ({"id": "msg", "text": text},), lambda: None)


def test_store_has_bounds() -> None:
    store = ResponseStore(max_responses=3, max_bytes=1000)
    for name in "abcd":
        one = stored(name)
        store.begin(one)
        assert store.get(name) is one
        store.finish(one)
        store.get("b")
    assert [name for name in "abcd" if store.get(name)] == ["b", "c", "d"]
    large = stored("e", "x" * 2000)
    store.begin(large)
    store.finish(large)
    assert len(store) == 1
    assert store.get("e") is large
    assert store.delete("e")
    assert not store.delete("e")
    assert (len(store), store.n_bytes) == (0, 0)


def test_deleted_while_running() -> None:
    store, cancelled = ResponseStore(), []
    one = stored("a")
    one.cancel = lambda: cancelled.append("a")
    store.begin(one)
    assert store.delete("a")
    assert cancelled == ["a"]
    store.finish(one)
    assert store.get("a") is None
