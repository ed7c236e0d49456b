"""Chat completions, by the real client of OpenAI, from a real model."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import openai
import pytest
from server import serving

from llmrun.cli.server.serve_options import ServeOptions

MODEL = "smollm2"
HI: Any = [{"role": "user", "content": "Hi"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["C", "F"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
PERSON: Any = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def url(smollm2_path: Path) -> Iterator[str]:
    with serving({MODEL: smollm2_path}, options=ServeOptions(metrics=True)) as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def ask(client: openai.OpenAI, messages: Any = HI, **parameters: Any) -> Any:
    parameters = {"temperature": 0, "max_tokens": 16, **parameters}
    return client.chat.completions.create(model=MODEL, messages=messages, **parameters)


def test_answers(client: openai.OpenAI) -> None:
    reply = ask(client)
    choice = reply.choices[0]
    assert choice.message.role == "assistant"
    assert choice.message.content == "Hello! How can I assist you today?"
    assert choice.finish_reason == "stop"
    assert reply.id.startswith("chatcmpl-")
    assert reply.model == MODEL
    assert reply.system_fingerprint.startswith("fp_")
    assert abs(reply.created - time.time()) < 60
    assert reply.usage.prompt_tokens == 31
    assert reply.usage.completion_tokens == 10
    assert reply.usage.total_tokens == 41
    assert reply.usage.completion_tokens_details.reasoning_tokens == 0
    assert reply.timings["predicted_n"] == 10


def test_a_stream_is_the_same_answer(client: openai.OpenAI) -> None:
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    *middle, last = chunks
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in middle) == "Hello! How can I assist you today?"
    assert [chunk.choices[0].finish_reason for chunk in middle] == [None] * (len(middle) - 1) + ["stop"]
    assert last.choices == []
    assert last.usage.completion_tokens == 10
    assert len({chunk.id for chunk in chunks}) == 1
    assert middle[-1].timings["predicted_n"] == 10


def test_a_stream_has_usage_only_if_it_is_asked_for(client: openai.OpenAI) -> None:
    chunks = list(ask(client, stream=True))
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


def test_a_known_prefix_is_counted_as_cached(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "Count: " + " ".join(map(str, range(100)))}]
    ask(client, messages, max_tokens=1)
    assert ask(client, messages, max_tokens=1).usage.prompt_tokens_details.cached_tokens >= 192


def test_several_answers_differ_by_their_seeds(client: openai.OpenAI) -> None:
    reply = ask(client, n=3, temperature=1.5, seed=5)
    texts = [choice.message.content for choice in reply.choices]
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert texts[1] == ask(client, temperature=1.5, seed=6).choices[0].message.content
    assert reply.usage.prompt_tokens == 31


def test_several_answers_are_streamed_together(client: openai.OpenAI) -> None:
    whole = ask(client, n=3, temperature=1.5, seed=5)
    texts, ends = ["", "", ""], []
    for chunk in ask(client, n=3, temperature=1.5, seed=5, stream=True):
        choice = chunk.choices[0]
        texts[choice.index] += choice.delta.content or ""
        ends += [choice.index] if choice.finish_reason else []
    assert texts == [choice.message.content for choice in whole.choices]
    assert sorted(ends) == [0, 1, 2]


def test_stop_ends_before_the_string(client: openai.OpenAI) -> None:
    for stop in (" assist", [" xyz", " assist"]):
        choice = ask(client, stop=stop).choices[0]
        assert choice.message.content == "Hello! How can I"
        assert choice.finish_reason == "stop"


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_limits_of_tokens(client: openai.OpenAI, name: str) -> None:
    reply = client.chat.completions.create(model=MODEL, messages=HI, temperature=0, **{name: 3})  # type: ignore[call-overload]
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage.completion_tokens == 3


def test_no_limit_is_minus_one(client: openai.OpenAI) -> None:
    assert ask(client, max_tokens=-1).choices[0].finish_reason == "stop"


def test_logprobs(client: openai.OpenAI) -> None:
    content = ask(client, logprobs=True, top_logprobs=3).choices[0].logprobs.content
    assert "".join(entry.token for entry in content) == "Hello! How can I assist you today?"
    for entry in content:
        assert entry.top_logprobs[0].token == entry.token  # greedy takes the likeliest
        assert entry.top_logprobs[0].logprob == entry.logprob <= 0
        assert len(entry.top_logprobs) == 3
        assert bytes(entry.bytes).decode() == entry.token
    assert ask(client).choices[0].logprobs is None


def test_logprobs_of_a_stream(client: openai.OpenAI) -> None:
    whole = ask(client, logprobs=True).choices[0].logprobs.content
    chunks = ask(client, logprobs=True, stream=True)
    entries = [e for c in chunks if c.choices[0].logprobs for e in c.choices[0].logprobs.content]
    assert entries == whole


def test_logit_bias_bans_and_forces(client: openai.OpenAI) -> None:
    assert not ask(client, logit_bias={"19556": -100}).choices[0].message.content.startswith("Hello")
    assert ask(client, logit_bias={"19556": 100}, max_tokens=3).choices[0].message.content == "HelloHelloHello"


def test_extensions_of_sampling(client: openai.OpenAI) -> None:
    hot = {"temperature": 2, "seed": 1}
    greedy = "Hello! How can I assist you today?"
    assert ask(client, **hot, extra_body={"top_k": 1}).choices[0].message.content == greedy
    assert ask(client, **hot, extra_body={"min_p": 1.0}).choices[0].message.content == greedy
    assert ask(client, **hot, top_p=0.01).choices[0].message.content == greedy
    assert ask(client, **hot).choices[0].message.content != greedy
    for name in ("repeat_penalty", "repetition_penalty"):
        assert ask(client, extra_body={name: 5.0, "repeat_last_n": -1}).choices[0].message.content != greedy
    for name in ("frequency_penalty", "presence_penalty"):
        assert "Hello! Hello!" not in ask(client, **{name: 2.0}).choices[0].message.content
    assert ask(client, extra_body={"ignore_eos": True}, max_tokens=20).choices[0].finish_reason == "length"


def test_json_schema(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "Describe a person."}]
    schema = {"name": "person", "schema": PERSON, "strict": True}
    text = ask(client, messages, max_tokens=100, response_format={"type": "json_schema", "json_schema": schema})
    jsonschema.validate(json.loads(text.choices[0].message.content), PERSON)


def test_json_object_and_text(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "Give me JSON with one short key."}]
    parameters: Any = {"max_tokens": 300, "response_format": {"type": "json_object"}, "frequency_penalty": 1}
    choice = ask(client, messages, **parameters).choices[0]
    assert choice.message.content.startswith("{")
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.message.content), dict)
    assert ask(client, response_format={"type": "text"}).choices[0].message.content.startswith("Hello")


@pytest.mark.parametrize(
    "grammar",
    [
        {"guided_choice": ["red (dark)", "green"]},
        {"guided_regex": r"red \(dark\)|green"},
        {"grammar": 'root ::= "red (dark)" | "green"'},
        {"guided_grammar": 'root ::= "red (dark)" | "green"'},
        {"guided_grammar": 'start: "red (dark)" | "green"'},
    ],
)
def test_other_grammars(client: openai.OpenAI, grammar: dict[str, Any]) -> None:
    assert ask(client, extra_body=grammar).choices[0].message.content in ("red (dark)", "green")


@pytest.mark.parametrize("name", ["json_schema", "guided_json"])
def test_schemas_of_other_servers(client: openai.OpenAI, name: str) -> None:
    schema = {"enum": ["yes", "no"]}
    assert ask(client, extra_body={name: schema}).choices[0].message.content in ('"yes"', '"no"')


def test_a_tool_that_must_be_called(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "How warm is Rome?"}]
    named = {"type": "function", "function": {"name": "get_weather"}}
    allowed: Any = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [named]}}
    for choice in ("required", named, allowed):
        answer = ask(
            client, messages, tools=[WEATHER], tool_choice=choice, max_tokens=100, parallel_tool_calls=False
        ).choices[0]
        assert answer.finish_reason == "tool_calls"
        call = answer.message.tool_calls[0]
        assert call.type == "function"
        assert call.function.name == "get_weather"
        jsonschema.validate(json.loads(call.function.arguments), WEATHER["function"]["parameters"])


def test_a_tool_call_is_streamed(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "How warm is Rome?"}]
    parameters: Any = {"tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False}
    parameters["max_tokens"] = 100
    whole = ask(client, messages, **parameters).choices[0].message.tool_calls[0]
    opening, arguments, reasons = [], "", []
    for chunk in ask(client, messages, stream=True, **parameters):
        choice = chunk.choices[0]
        reasons += [choice.finish_reason] if choice.finish_reason else []
        for delta in choice.delta.tool_calls or []:
            opening += [(delta.index, delta.id, delta.type, delta.function.name)] if delta.id else []
            arguments += delta.function.arguments or ""
    assert arguments == whole.function.arguments
    assert reasons == ["tool_calls"]
    assert len(opening) == 1
    assert opening[0][0] == 0
    assert opening[0][2:] == ("function", "get_weather")


def test_a_tool_that_must_not_be_called(client: openai.OpenAI) -> None:
    assert ask(client, tools=[WEATHER], tool_choice="none").choices[0].message.tool_calls is None


def test_a_conversation_with_tools_goes_on(client: openai.OpenAI) -> None:
    call = {
        "id": "c1",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city":"Rome","unit":"C"}'},
    }
    messages: Any = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "How warm"}, {"type": "text", "text": "is Rome?"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "21 C"},
    ]
    assert ask(client, messages, tools=[WEATHER]).choices[0].message.content


def test_the_context_is_a_limit_that_is_told(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "word " * 300}]
    with pytest.raises(openai.BadRequestError) as error:
        ask(client, messages, extra_body={"num_ctx": 200})
    assert error.value.code == "context_length_exceeded"
    assert "200" in error.value.message
    assert "3" in error.value.message
    long = [{"role": "user", "content": "word " * 20_000}]
    with pytest.raises(openai.BadRequestError, match="context"):
        ask(client, long)
    assert ask(client, extra_body={"num_ctx": 35}, max_tokens=-1).choices[0].finish_reason == "length"


@pytest.mark.parametrize(
    "parameters",
    [
        {"user": "me", "metadata": {"a": "b"}, "safety_identifier": "x", "prompt_cache_key": "y"},
        {"store": False, "service_tier": "auto", "verbosity": "medium", "modalities": ["text"]},
        {"prompt_cache_retention": "in_memory", "prompt_cache_options": {"mode": "implicit"}},
        {"parallel_tool_calls": True, "reasoning_effort": "none", "tool_choice": "auto"},
        {"audio": None, "prediction": None, "web_search_options": None, "functions": None, "function_call": None},
        {"stream": False, "n": 1, "logit_bias": {}, "stop": None, "top_logprobs": None, "moderation": None},
        {"cache_prompt": True, "keep_alive": "5m", "priority": 3, "chat_template_kwargs": {"x": 1}},
    ],
)
def test_what_changes_nothing_is_taken(client: openai.OpenAI, parameters: dict[str, Any]) -> None:
    assert ask(client, extra_body=parameters, max_tokens=1).choices[0].message.content == "Hello"


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ({"audio": {"voice": "alloy", "format": "mp3"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"functions": []}, "functions"),
        ({"function_call": "auto"}, "function_call"),
        ({"moderation": {"model": "x"}}, "moderation"),
        ({"prediction": {"type": "content", "content": "x"}}, "prediction"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"store": True}, "store"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"verbosity": "low"}, "verbosity"),
        ({"prompt_cache_retention": "24h"}, "prompt_cache_retention"),
        ({"prompt_cache_options": {"mode": "explicit"}}, "prompt_cache_options"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"cache_prompt": False}, "cache_prompt"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "0.5"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_completion_tokens": 5}, "max_completion_tokens"),  # and max_tokens says 16
        ({"max_tokens": 0}, "max_tokens"),
        ({"seed": -1}, "seed"),
        ({"stop": [""]}, "stop"),
        ({"frequency_penalty": 1000}, "frequency_penalty"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"logit_bias": {"99999999": 1}}, "logit_bias"),
        ({"repeat_penalty": 1.1, "repetition_penalty": 1.2}, "repeat_penalty"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": 7}}}}, "schema"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_regex"),
        ({"guided_regex": "("}, "regular expression"),
        ({"guided_choice": []}, "guided_choice"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools"),
        ({"tools": [WEATHER, WEATHER]}, "tools"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "custom", "custom": {"name": "x"}}}, "tool_choice"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        ({"keep_alive": "soon"}, "keep_alive"),
        ({"num_ctx": 0}, "num_ctx"),
        ({"priority": 1000}, "priority"),
        ({"top_kk": 1}, "top_kk"),
    ],
)
def test_what_is_refused_is_named(client: openai.OpenAI, parameters: dict[str, Any], name: str) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        ask(client, extra_body=parameters)
    assert name in error.value.message
    assert error.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    ("messages", "name"),
    [
        ([], "messages"),
        ([{"role": "user"}], "content"),
        ([{"role": "robot", "content": "x"}], "messages"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}], "image_url"),
        ([{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}], "input_audio"),
        ([{"role": "user", "content": "x", "mood": "y"}], "mood"),
        ([{"role": "assistant"}], "messages[0]"),
        ([{"role": "tool", "content": "x"}], "tool_call_id"),
        (
            [{"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{"}}]}],
            "messages[0].tool_calls[0].function.arguments",
        ),
    ],
)
def test_messages_that_are_refused(client: openai.OpenAI, messages: Any, name: str) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        ask(client, messages)
    assert name in error.value.message


def test_unknown_models_are_not_found(client: openai.OpenAI) -> None:
    for name in ("gpt-4o", "../../etc/passwd", "/etc/passwd"):
        with pytest.raises(openai.NotFoundError) as error:
            client.chat.completions.create(model=name, messages=HI)
        assert error.value.code == "model_not_found"


def test_a_stream_that_is_closed_ends_its_answer(client: openai.OpenAI, url: str) -> None:
    stream = ask(client, stream=True, max_tokens=2000, extra_body={"ignore_eos": True})
    next(stream)
    stream.close()
    _until_idle(url)


def test_a_request_that_is_given_up_ends_its_answer(url: str) -> None:
    body = {"model": MODEL, "messages": HI, "max_tokens": 2000, "ignore_eos": True}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{url}/v1/chat/completions", json=body, timeout=0.5)
    _until_idle(url)


def test_many_at_once_get_what_they_get_alone(client: openai.OpenAI) -> None:
    questions: Any = [[{"role": "user", "content": f"Say {word}."}] for word in ("one", "two", "three", "four")]
    alone = [ask(client, question).choices[0].message.content for question in questions]
    together = [""] * len(questions)

    def read(i: int) -> None:
        for chunk in ask(client, questions[i], stream=True):
            together[i] += chunk.choices[0].delta.content or ""

    threads = [threading.Thread(target=read, args=(i,)) for i in range(len(questions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert together == alone


def test_paths_without_a_version(url: str) -> None:
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        assert ask(client, max_tokens=1).choices[0].message.content == "Hello"
        assert client.models.retrieve(MODEL).id == MODEL


def test_models(client: openai.OpenAI) -> None:
    models = client.models.list().data
    assert models[0].id == MODEL
    assert models[0].object == "model"
    assert models[0].created > 0
    assert client.models.retrieve(MODEL) == models[0]
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("a/b/c")


def _until_idle(url: str) -> None:
    """Wait until a request that comes now would run alone."""
    end = time.monotonic() + 10
    idle = f'llmrun_requests_running{{model="{MODEL}"}} 0.0'
    while idle not in httpx.get(f"{url}/metrics").text:
        assert time.monotonic() < end, "the answer goes on"
        time.sleep(0.05)
