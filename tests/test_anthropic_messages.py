"""Anthropic's messages API, by its own client, against a real server with a real model."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import jsonschema
import pytest
from server import serving

from llmrun.runner.model_host import HostOptions

MODEL = "smollm2"
GREEDY = {"temperature": 0}
HELLO: list[Any] = [{"role": "user", "content": "Say hello."}]
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}, "days": {"type": "integer"}},
    "required": ["city", "days"],
}
TOOLS: list[Any] = [
    {"name": "get_weather", "description": "The weather of a city", "input_schema": WEATHER},
    {"name": "get_time", "input_schema": {"type": "object", "properties": {}}},
]
ASK: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]


@pytest.fixture(scope="module")
def url(smollm2_path: Path) -> Iterator[str]:
    with serving({MODEL: smollm2_path}, HostOptions(n_ctx=1024, n_parallel=2)) as address:
        yield address


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=url, api_key="unused", max_retries=0, timeout=60) as client:
        yield client


def test_message(client: anthropic.Anthropic) -> None:
    message = client.messages.create(model=MODEL, max_tokens=12, messages=HELLO, extra_body=GREEDY)
    assert message.role == "assistant"
    assert message.type == "message"
    assert message.id.startswith("msg_")
    assert message.model == MODEL
    assert [block.type for block in message.content] == ["text"]
    assert message.stop_reason == "max_tokens"
    assert message.usage.output_tokens == 12


def test_message_that_ends(client: anthropic.Anthropic) -> None:
    message = client.messages.create(
        model=MODEL,
        max_tokens=200,
        messages=[{"role": "user", "content": "What is the capital of France? Answer in one word."}],
        extra_body=GREEDY,
    )
    assert message.stop_reason == "end_turn"
    assert message.stop_sequence is None


def test_stream_says_what_a_message_says(client: anthropic.Anthropic) -> None:
    whole = client.messages.create(model=MODEL, max_tokens=12, messages=HELLO, extra_body=GREEDY)
    with client.messages.stream(model=MODEL, max_tokens=12, messages=HELLO, extra_body=GREEDY) as stream:
        texts = list(stream.text_stream)
        message = stream.get_final_message()
    assert len(texts) > 1
    assert "".join(texts) == whole.content[0].text
    assert message.content[0].text == whole.content[0].text
    assert message.stop_reason == "max_tokens"
    assert message.usage.output_tokens == 12
    assert message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0) == _n_prompt(whole)


def test_events_on_the_wire(url: str) -> None:
    body = {"model": MODEL, "max_tokens": 3, "messages": HELLO, "stream": True, **GREEDY}
    with httpx.stream("POST", f"{url}/v1/messages", json=body, timeout=60) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        blocks = answer.read().decode().split("\n\n")
    assert blocks.pop() == ""
    names = []
    for block in blocks:
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        names.append(event["type"])
    n_deltas = names.count("content_block_delta")
    assert names == [
        "message_start",
        "ping",
        "content_block_start",
        *["content_block_delta"] * n_deltas,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


def test_stop_sequence(client: anthropic.Anthropic) -> None:
    whole = client.messages.create(model=MODEL, max_tokens=12, messages=HELLO, extra_body=GREEDY)
    text = whole.content[0].text
    stop = text.split()[2]
    message = client.messages.create(
        model=MODEL, max_tokens=12, messages=HELLO, stop_sequences=["never said", stop], extra_body=GREEDY
    )
    assert message.stop_reason == "stop_sequence"
    assert message.stop_sequence == stop
    assert message.content[0].text == text[: text.index(stop)]


def test_prefix_is_reused(client: anthropic.Anthropic) -> None:
    system: list[Any] = [{"type": "text", "text": "Be brief. " * 100, "cache_control": {"type": "ephemeral"}}]
    first, second = (
        client.messages.create(model=MODEL, max_tokens=2, system=system, messages=HELLO, extra_body=GREEDY)
        for _ in range(2)
    )
    assert second.usage.cache_read_input_tokens > 100
    assert _n_prompt(first) == _n_prompt(second)
    assert first.content[0].text == second.content[0].text


def test_count_tokens(client: anthropic.Anthropic) -> None:
    count = client.messages.count_tokens(model=MODEL, system="Be brief.", messages=HELLO)
    blocks = client.messages.count_tokens(
        model=MODEL,
        system=[{"type": "text", "text": "Be brief."}],
        messages=[{"role": "user", "content": [{"type": "text", "text": "Say hello."}]}],
    )
    message = client.messages.create(model=MODEL, max_tokens=1, system="Be brief.", messages=HELLO)
    with_tools = client.messages.count_tokens(model=MODEL, system="Be brief.", messages=HELLO, tools=TOOLS)
    assert count.input_tokens == blocks.input_tokens == _n_prompt(message)
    assert with_tools.input_tokens > count.input_tokens


def test_any_tool(client: anthropic.Anthropic) -> None:
    message = client.messages.create(
        model=MODEL,
        max_tokens=100,
        messages=ASK,
        tools=TOOLS,
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        extra_body=GREEDY,
    )
    assert message.stop_reason == "tool_use"
    [call] = message.content
    assert call.type == "tool_use"
    assert call.id.startswith("toolu_")
    if call.name == "get_weather":
        jsonschema.validate(call.input, WEATHER)
    result: list[Any] = [
        {"type": "tool_result", "tool_use_id": call.id, "content": "Sunny, 25 degrees"},
        {"type": "text", "text": "Say it in your words."},
    ]
    answer = client.messages.create(
        model=MODEL,
        max_tokens=5,
        messages=[*ASK, {"role": "assistant", "content": message.content}, {"role": "user", "content": result}],
        tools=TOOLS,
        tool_choice={"type": "none"},
        extra_body=GREEDY,
    )
    assert [block.type for block in answer.content] == ["text"]


def test_named_tool_in_a_stream(client: anthropic.Anthropic) -> None:
    with client.messages.stream(
        model=MODEL,
        max_tokens=100,
        messages=ASK,
        tools=TOOLS,
        tool_choice={"type": "tool", "name": "get_weather"},
        extra_body=GREEDY,
    ) as stream:
        pieces = [event.partial_json for event in stream if event.type == "input_json"]
        message = stream.get_final_message()
    [call] = [block for block in message.content if block.type == "tool_use"][:1]
    assert call.name == "get_weather"
    assert pieces
    jsonschema.validate(call.input, WEATHER)


def test_json_schema(client: anthropic.Anthropic) -> None:
    message = client.messages.create(
        model=MODEL,
        max_tokens=100,
        messages=ASK,
        output_config={"format": {"type": "json_schema", "schema": {**WEATHER, "additionalProperties": False}}},
        extra_body=GREEDY,
    )
    jsonschema.validate(json.loads(message.content[0].text), WEATHER)


def test_fields_that_change_nothing(client: anthropic.Anthropic) -> None:
    plain = client.messages.create(model=MODEL, max_tokens=6, messages=HELLO, extra_body=GREEDY)
    full = client.messages.create(
        model=MODEL,
        max_tokens=6,
        messages=[{"role": "user", "content": [{"type": "text", "text": "Say hello.", "citations": None}]}],
        metadata={"user_id": "somebody"},
        service_tier="auto",
        thinking={"type": "disabled"},
        cache_control={"type": "ephemeral"},
        extra_body=GREEDY,
    )
    assert full.content == plain.content


def test_alias_and_key_header(url: str) -> None:
    body = {"model": MODEL, "max_tokens": 2, "messages": HELLO}
    answer = httpx.post(f"{url}/messages", json=body, headers={"x-api-key": "any"}, timeout=60)
    assert answer.status_code == 200
    assert answer.json()["type"] == "message"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"max_token": 3}, "max_token"),
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"stop_sequences": [""]}, "stop"),
        ({"container": "c"}, "container"),
        ({"service_tier": "batch"}, "service_tier"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "content"),
        ({"messages": [*HELLO, {"role": "assistant", "content": "Hel"}]}, "messages.1"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "image"),
        ({"messages": [{"role": "user", "content": [{"type": "hologram"}]}]}, "hologram"),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1"}]}]},
            "tool_use_id",
        ),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "web_search_20250305"),
        ({"tools": [{"name": "f"}]}, "input_schema"),
        ({"tools": TOOLS, "tool_choice": {"type": "tool", "name": "f"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"thinking": {"type": "enabled", "budget_tokens": 10}}, "budget_tokens"),
        ({"thinking": {"type": "enabled"}}, "budget_tokens"),
        ({"output_config": {"format": {"type": "json_schema", "schema": {"type": "colour"}}}}, "colour"),
        ({"messages": [{"role": "user", "content": "word " * 2000}]}, "context"),
    ],
)
def test_bad_requests(url: str, change: dict[str, Any], named: str) -> None:
    body = {"model": MODEL, "max_tokens": 5, "messages": HELLO} | change
    body = {name: value for name, value in body.items() if value is not None}
    for stream in (False, True):
        answer = httpx.post(f"{url}/v1/messages", json=body | {"stream": stream}, timeout=60)
        assert answer.status_code == 400
        error = answer.json()
        assert error["type"] == "error"
        assert error["error"]["type"] == "invalid_request_error"
        assert named in error["error"]["message"]


def test_unknown_model(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="not_found_error"):
        client.messages.create(model="../../etc/passwd", max_tokens=1, messages=HELLO)


def _n_prompt(message: anthropic.types.Message) -> int:
    return message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0)
