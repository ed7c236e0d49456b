"""What Anthropic's requests mean to the engine, and what its answers look like, without a model."""

from dataclasses import dataclass
from typing import Any

import pytest

from llmrun.cli.server.anthropic_reply import MessageReply
from llmrun.cli.server.anthropic_request import MessagesBody, chat_request, shows_thinking
from llmrun.quant_formats.errors import UsageError
from llmrun.runner.chat_request import ChatDelta, ChatRequest, Usage
from llmrun.runner.sampler import SamplingParams
from llmrun.runner.tool import ToolCallDelta

USAGE = Usage(n_prompt=10, n_cached=4, n_generated=7, n_reasoning=0)


@dataclass
class EndedStream:
    """What a reply looks at of a stream that has ended."""

    finish_reason: str = "stop"
    stop_string: str | None = None
    usage: Usage = USAGE


def request(**fields: Any) -> ChatRequest:
    body = {"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}]} | fields
    return chat_request(MessagesBody.model_validate(body), client="c")


def test_turns_and_tools() -> None:
    messages = [
        {"role": "user", "content": "One"},
        {"role": "user", "content": [{"type": "text", "text": "Two"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "x"},
                {"type": "text", "text": "Let me "},
                {"type": "text", "text": "see."},
                {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": "sky"}},
                {"type": "tool_use", "id": "toolu_2", "name": "hear", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "blue"}]},
                {"type": "tool_result", "tool_use_id": "toolu_2", "content": "deaf", "is_error": True},
                {"type": "text", "text": "Go on."},
            ],
        },
    ]
    assert list(request(messages=messages, system=[{"type": "text", "text": "S"}]).messages) == [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "One\nTwo"},
        {
            "role": "assistant",
            "content": "Let me see.",
            "reasoning_content": "Hm.",
            "tool_calls": [
                {"id": "toolu_1", "type": "function", "function": {"name": "look", "arguments": {"at": "sky"}}},
                {"id": "toolu_2", "type": "function", "function": {"name": "hear", "arguments": {}}},
            ],
        },
        {"role": "tool", "content": "blue", "tool_call_id": "toolu_1", "name": "look"},
        {"role": "tool", "content": "Error: deaf", "tool_call_id": "toolu_2", "name": "hear"},
        {"role": "user", "content": "Go on."},
    ]


@pytest.mark.parametrize(
    ("role", "block", "named"),
    [
        ("user", {"type": "tool_use", "id": "i", "name": "n", "input": {}}, "messages.0.content.0: a tool_use"),
        ("user", {"type": "thinking", "thinking": "Hm."}, "messages.0.content.0: a thinking"),
        ("assistant", {"type": "tool_result", "tool_use_id": "i"}, "messages.0.content.0: a tool_result"),
        ("system", {"type": "thinking", "thinking": "Hm."}, "messages.0.content.0: a thinking"),
        ("assistant", {"type": "redacted_thinking", "data": "x"}, "messages.0.content.0: blocks of type"),
    ],
)
def test_blocks_out_of_place(role: str, block: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        request(messages=[{"role": role, "content": [block]}, {"role": "user", "content": "Hi"}])


def test_sampling() -> None:
    asked = request(temperature=0.5, top_p=0.9, top_k=3, stop_sequences=["a", "b"])
    assert asked.params == SamplingParams(temperature=0.5, top_p=0.9, top_k=3, stop=["a", "b"], max_tokens=100)
    assert request().params == SamplingParams(max_tokens=100)


@pytest.mark.parametrize(
    ("thinking", "think"),
    [
        (None, False),
        ({"type": "disabled"}, False),
        ({"type": "adaptive"}, None),
        ({"type": "enabled", "budget_tokens": 50}, True),
    ],
)
def test_thinking(thinking: dict[str, Any] | None, think: bool | None) -> None:
    assert request(thinking=thinking).think is think


def test_effort() -> None:
    assert request(output_config={"effort": "xhigh"}).template_variables == {"reasoning_effort": "high"}
    assert request().template_variables == {}


@pytest.mark.parametrize(
    ("choice", "meaning", "parallel"),
    [
        (None, "auto", True),
        ({"type": "any"}, "required", True),
        ({"type": "tool", "name": "f", "disable_parallel_tool_use": True}, "=f", False),
        ({"type": "none"}, "none", True),
    ],
)
def test_tool_choice(choice: dict[str, Any] | None, meaning: str, parallel: bool) -> None:
    asked = request(tools=[{"name": "f", "description": "d", "input_schema": {"type": "object"}}], tool_choice=choice)
    assert asked.tool_choice == meaning
    assert asked.parallel_tool_calls is parallel
    assert [(tool.name, tool.description, tool.parameters) for tool in asked.tools] == [("f", "d", {"type": "object"})]


DELTAS = [
    ChatDelta(reasoning="Let me"),
    ChatDelta(reasoning=" think."),
    ChatDelta(content="Hel"),
    ChatDelta(content="lo"),
    ChatDelta(tool_calls=(ToolCallDelta(0, "call_a", "look", '{"at":'),)),
    ChatDelta(tool_calls=(ToolCallDelta(0, None, None, '"sky"}'), ToolCallDelta(1, "call_b", "hear", ""))),
]


def test_blocks_and_their_events() -> None:
    reply = MessageReply("m", 10, 100, shows_thinking=True)
    events = reply.start()
    for delta in DELTAS:
        events += reply.push(delta)
    events += reply.end(EndedStream("tool_calls"))
    assert reply.message["content"] == [
        {"type": "thinking", "thinking": "Let me think.", "signature": ""},
        {"type": "text", "text": "Hello"},
        {"type": "tool_use", "id": "toolu_a", "name": "look", "input": {"at": "sky"}},
        {"type": "tool_use", "id": "toolu_b", "name": "hear", "input": {}},
    ]
    assert reply.message["stop_reason"] == "tool_use"
    assert reply.message["usage"]["input_tokens"] == 6
    assert reply.message["usage"]["cache_read_input_tokens"] == 4
    assert events[0]["message"]["content"] == []
    shape = [(event["type"], event.get("index")) for event in events]
    start, delta, stop = (f"content_block_{name}" for name in ("start", "delta", "stop"))
    assert shape == [
        ("message_start", None),
        ("ping", None),
        *[(start, 0), (delta, 0), (delta, 0), (stop, 0)],
        *[(start, 1), (delta, 1), (delta, 1), (stop, 1)],
        *[(start, 2), (delta, 2), (delta, 2), (stop, 2)],
        *[(start, 3), (stop, 3)],
        ("message_delta", None),
        ("message_stop", None),
    ]
    assert [event["content_block"] for event in events if event["type"] == start][2]["input"] == {}


def test_thinking_left_out() -> None:
    body = {"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}]}
    body["thinking"] = {"type": "adaptive", "display": "omitted"}
    reply = MessageReply("m", 10, 100, shows_thinking(MessagesBody.model_validate(body)))
    for delta in DELTAS[:4]:
        reply.push(delta)
    reply.end(EndedStream())
    assert reply.message["content"] == [{"type": "text", "text": "Hello"}]


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (EndedStream(), "end_turn"),
        (EndedStream(stop_string="x"), "stop_sequence"),
        (EndedStream("length", usage=Usage(10, 0, 100, 0)), "max_tokens"),
        (EndedStream("length", usage=Usage(10, 0, 90, 0)), "model_context_window_exceeded"),
    ],
)
def test_stop_reason(stream: EndedStream, reason: str) -> None:
    reply = MessageReply("m", 10, 100, shows_thinking=True)
    reply.end(stream)
    assert reply.message["stop_reason"] == reason
    assert reply.message["stop_sequence"] == stream.stop_string


def test_call_that_was_cut_off() -> None:
    reply = MessageReply("m", 10, 100, shows_thinking=True)
    reply.push(DELTAS[4])
    reply.end(EndedStream("length"))
    assert reply.message["content"][0]["input"] == {"arguments": '{"at":'}
