"""OpenAI's Responses API, by its own client, against a real server with a real model."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import httpx
import jsonschema
import openai
import pytest
from openai.types.responses import Response
from pydantic import BaseModel
from server import serving

from llmrun.runner.model_host import HostOptions

MODEL = "smollm2"
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS: list[Any] = [
    {"type": "function", "name": "get_weather", "description": "The weather", "parameters": WEATHER, "strict": True},
    {"type": "function", "name": "get_time", "parameters": {"type": "object", "properties": {}}, "strict": False},
]
CAPITAL = "What is the capital of France? Answer in one word."
LONG: Any = {  # an answer that takes seconds
    "format": {"type": "json_schema", "name": "n", "schema": {"type": "array", "items": {"const": 1}, "minItems": 900}}
}


@pytest.fixture(scope="module")
def url(smollm2_path: Path) -> Iterator[str]:
    with serving({MODEL: smollm2_path}, HostOptions(n_ctx=2048, n_parallel=2)) as address:
        yield address


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0, timeout=60) as client:
        yield client


def say(client: openai.OpenAI, said: Any = "Say hello.", **fields: Any) -> Response:
    return client.responses.create(**{"model": MODEL, "input": said, "max_output_tokens": 8, "temperature": 0} | fields)


def test_response(client: openai.OpenAI) -> None:
    response = say(client, CAPITAL, max_output_tokens=100, metadata={"a": "b"})
    assert response.status == "completed"
    assert response.object == "response"
    assert response.completed_at is not None
    assert "Paris" in response.output_text
    assert [item.type for item in response.output] == ["message"]
    assert response.output[0].status == "completed"
    assert response.metadata == {"a": "b"}
    assert response.temperature == 0
    assert response.usage is not None
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens


def test_length(client: openai.OpenAI) -> None:
    response = say(client, max_output_tokens=5)
    assert response.status == response.output[0].status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.usage is not None
    assert response.usage.output_tokens == 5


def test_stream_says_what_a_response_says(client: openai.OpenAI) -> None:
    whole = say(client, CAPITAL, max_output_tokens=100)
    with client.responses.stream(model=MODEL, input=CAPITAL, max_output_tokens=100, temperature=0) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert final.output_text == whole.output_text
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    n_deltas = kinds.count("response.output_text.delta")
    assert n_deltas > 1
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * n_deltas,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]


def test_previous_response(client: openai.OpenAI) -> None:
    first = say(client, "My name is Ada.", instructions="Be brief.", max_output_tokens=20)
    second = say(client, "What is my name?", previous_response_id=first.id)
    by_hand = say(
        client,
        [
            {"role": "user", "content": "My name is Ada."},
            {"role": "assistant", "content": first.output_text},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "What is my name?"}]},
        ],
    )
    sent_back = say(client, [{"role": "user", "content": "My name is Ada."}, *first.output, user("What is my name?")])
    assert second.previous_response_id == first.id
    assert second.output_text == by_hand.output_text == sent_back.output_text
    assert sent_back.usage is not None
    assert sent_back.usage.input_tokens_details.cached_tokens > 0
    client.responses.delete(first.id)
    third = say(client, "And now?", previous_response_id=second.id)
    items = client.responses.input_items.list(third.id, order="asc", limit=2)
    assert [item.id for item in items] == [item["id"] for item in _items(client, third.id)]
    assert [item["content"][0]["text"] for item in _items(client, third.id)] == [
        "My name is Ada.",
        first.output_text,
        "What is my name?",
        second.output_text,
        "And now?",
    ]


def _items(client: openai.OpenAI, response_id: str) -> list[Any]:
    url = f"{client.base_url}responses/{response_id}/input_items"
    page = httpx.get(url, params={"order": "desc", "limit": 100}).json()
    assert page["has_more"] is False
    return page["data"][::-1]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def test_stored_responses(client: openai.OpenAI) -> None:
    response = say(client)
    assert client.responses.retrieve(response.id) == response
    client.responses.delete(response.id)
    for unstored in (response, say(client, store=False)):
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(unstored.id)
        with pytest.raises(openai.BadRequestError, match="previous_response_id"):
            say(client, previous_response_id=unstored.id)


def test_required_tool(client: openai.OpenAI) -> None:
    question = user("What is the weather in Paris?")
    response = say(
        client,
        [question],
        tools=TOOLS,
        tool_choice="required",
        parallel_tool_calls=False,
        max_output_tokens=100,
    )
    [call] = response.output
    assert call.type == "function_call"
    assert call.status == "completed"
    if call.name == "get_weather":
        jsonschema.validate(json.loads(call.arguments), WEATHER)
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny"}
    by_id = say(client, [output], previous_response_id=response.id, tools=TOOLS, tool_choice="none")
    by_hand = say(client, [question, call, output], tools=TOOLS, tool_choice="none")
    assert by_id.output_text == by_hand.output_text


def test_named_tool_in_a_stream(client: openai.OpenAI) -> None:
    with client.responses.stream(
        model=MODEL,
        input="What is the weather in Paris?",
        tools=TOOLS,
        tool_choice={"type": "function", "name": "get_weather"},
        parallel_tool_calls=False,
        max_output_tokens=100,
        temperature=0,
    ) as stream:
        kinds = [event.type for event in stream]
        [call] = stream.get_final_response().output
    assert call.type == "function_call"
    assert call.name == "get_weather"
    jsonschema.validate(json.loads(call.arguments), WEATHER)
    n_deltas = kinds.count("response.function_call_arguments.delta")
    assert n_deltas > 0
    assert kinds[2:-1] == [
        "response.output_item.added",
        *["response.function_call_arguments.delta"] * n_deltas,
        "response.function_call_arguments.done",
        "response.output_item.done",
    ]


def test_json_schema(client: openai.OpenAI) -> None:
    class Weather(BaseModel):
        city: Literal["Paris", "Rome"]
        is_sunny: bool

    response = client.responses.parse(
        model=MODEL, input="Is it sunny in Rome?", text_format=Weather, max_output_tokens=60, temperature=0
    )
    assert isinstance(response.output_parsed, Weather)


def test_json_object(client: openai.OpenAI) -> None:
    response = say(
        client, "Give me a short JSON object.", text={"format": {"type": "json_object"}}, max_output_tokens=200
    )
    assert response.output_text.lstrip().startswith("{")


def test_logprobs(client: openai.OpenAI) -> None:
    response = say(client, include=["message.output_text.logprobs"], top_logprobs=3)
    [part] = response.output[0].content
    assert len(part.logprobs) == 8
    assert "".join(entry.token for entry in part.logprobs) == part.text
    for entry in part.logprobs:
        assert len(entry.top_logprobs) == 3
        assert entry.logprob == entry.top_logprobs[0].logprob  # the likeliest is always taken
        assert bytes(entry.bytes).decode() == entry.token


def test_input_tokens(client: openai.OpenAI) -> None:
    count = client.responses.input_tokens.count(model=MODEL, input="Say hello.", instructions="Be brief.")
    response = say(client, instructions="Be brief.")
    assert response.usage is not None
    assert count.input_tokens == response.usage.input_tokens


def test_cancel(client: openai.OpenAI) -> None:
    stream = client.responses.create(model=MODEL, input="Count.", stream=True, text=LONG, temperature=0)
    events = []
    for event in stream:
        events.append(event)
        if len(events) == 6:
            assert client.responses.retrieve(events[0].response.id).status == "in_progress"
            assert client.responses.cancel(events[0].response.id).status == "cancelled"
    assert events[-1].response.status == "cancelled"
    assert len(events) < 200
    kept = client.responses.retrieve(events[0].response.id)
    assert kept.status == "cancelled"
    assert kept.output[0].status == "incomplete"
    assert client.responses.cancel(kept.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError, match="cancel"):
        client.responses.cancel(say(client).id)


def test_client_that_leaves(client: openai.OpenAI) -> None:
    stream = client.responses.create(model=MODEL, input="Count.", stream=True, text=LONG, temperature=0)
    response_id = next(iter(stream)).response.id
    stream.close()
    while (response := client.responses.retrieve(response_id)).status == "in_progress":
        pass
    assert response.status == "cancelled"


def test_alias(url: str) -> None:
    body = {"model": MODEL, "input": "Hi", "max_output_tokens": 1}
    assert httpx.post(f"{url}/responses", json=body, timeout=60).json()["object"] == "response"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"inputs": "x"}, "inputs"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": "5"}, "max_output_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"truncation": "auto"}, "truncation"),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"include": ["file_search_call.results"]}, "include"),
        ({"metadata": {"k": "v" * 600}}, "metadata"),
        ({"stream_options": {"include_obfuscation": False}}, "stream_options"),
        ({"input": []}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input_image"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "item_reference"),
        ({"input": [{"type": "function_call_output", "call_id": "call_1", "output": ""}]}, "call_1"),
        ({"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{"}]}, "arguments"),
        ({"input": [{"role": "wizard", "content": "x"}]}, "role"),
        ({"tools": [{"type": "web_search"}]}, "web_search"),
        ({"tools": [TOOLS[0], TOOLS[0]]}, "get_weather"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "name": "f"}}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "colour"}}}}, "colour"),
        ({"text": {"format": {"type": "xml"}}}, "text.format"),
        ({"text": {"verbosity": "high"}}, "verbosity"),
        ({"reasoning": {"summary": "detailed"}}, "summary"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": "word " * 3000}, "context"),
    ],
)
def test_bad_requests(url: str, change: dict[str, Any], named: str) -> None:
    body = {"model": MODEL, "input": "Hi", "max_output_tokens": 2} | change
    answer = httpx.post(f"{url}/v1/responses", json=body, timeout=60)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert named in error["message"]


def test_unknown_model_and_ids(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="is not here"):
        say(client, model="../../etc/passwd")
    for call in (client.responses.retrieve, client.responses.delete, client.responses.cancel):
        with pytest.raises(openai.NotFoundError):
            call("resp_0")
    with pytest.raises(openai.NotFoundError):
        client.responses.input_items.list("resp_0")
