"""Completions, by the real client of OpenAI, from a real model."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from server import openai_client

MODEL = "smollm2"
PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def client(smollm2_path: Path) -> Iterator[openai.OpenAI]:
    with openai_client({MODEL: smollm2_path}) as client:
        yield client


def complete(client: openai.OpenAI, prompt: Any = PROMPT, **parameters: Any) -> Any:
    parameters = {"temperature": 0, "max_tokens": 4, **parameters}
    return client.completions.create(model=MODEL, prompt=prompt, **parameters)


def test_a_text_goes_on(client: openai.OpenAI) -> None:
    reply = complete(client)
    assert reply.object == "text_completion"
    assert reply.id.startswith("cmpl-")
    assert reply.choices[0].text == " Paris.\n\n"
    assert reply.choices[0].finish_reason == "length"
    assert reply.choices[0].logprobs is None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (5, 4, 9)
    assert reply.timings["predicted_n"] == 4


def test_the_limit_is_sixteen_tokens_by_default(client: openai.OpenAI) -> None:
    reply = client.completions.create(model=MODEL, prompt=PROMPT, temperature=0)
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 16


def test_a_stream_is_the_same_text(client: openai.OpenAI) -> None:
    *middle, last = complete(client, stream=True, stream_options={"include_usage": True})
    assert "".join(chunk.choices[0].text for chunk in middle) == " Paris.\n\n"
    assert [chunk.choices[0].finish_reason for chunk in middle] == [None] * (len(middle) - 1) + ["length"]
    assert last.choices == []
    assert last.usage.completion_tokens == 4


def test_prompts_of_all_kinds(client: openai.OpenAI) -> None:
    text = complete(client, "Once upon a time").choices[0].text
    ids = [6403, 1980, 253, 655]
    assert complete(client, ids).choices[0].text == text
    reply = complete(client, [PROMPT, "Once upon a time"])
    assert [choice.text for choice in reply.choices] == [" Paris.\n\n", text]
    assert [choice.index for choice in reply.choices] == [0, 1]
    assert complete(client, [ids, ids]).choices[1].text == text
    assert complete(client, ids, echo=True).choices[0].text == "Once upon a time" + text


def test_choices_of_several_prompts_are_counted_on(client: openai.OpenAI) -> None:
    parameters: Any = {"n": 2, "temperature": 1, "seed": 3}
    whole = complete(client, [PROMPT, "Once"], **parameters)
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    assert len({choice.text for choice in whole.choices}) == 4
    texts = [""] * 4
    for chunk in complete(client, [PROMPT, "Once"], stream=True, **parameters):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in whole.choices]
    assert complete(client, PROMPT, temperature=1, seed=4).choices[0].text == texts[1]


def test_logprobs(client: openai.OpenAI) -> None:
    lists = complete(client, logprobs=2).choices[0].logprobs
    assert lists.tokens == [" Paris", ".", "\n", "\n"]
    assert lists.text_offset == [0, 6, 7, 8]
    for token, value, top in zip(lists.tokens, lists.token_logprobs, lists.top_logprobs, strict=True):
        assert top[token] == value == max(top.values()) <= 0
        assert len(top) == 2
    assert complete(client, logprobs=0).choices[0].logprobs.top_logprobs is None


def test_logprobs_of_a_stream(client: openai.OpenAI) -> None:
    whole = complete(client, logprobs=1).choices[0].logprobs
    chunks = [chunk.choices[0].logprobs for chunk in complete(client, logprobs=1, stream=True)]
    parts = [part for part in chunks if part is not None]
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert [entry for part in parts for entry in getattr(part, name)] == getattr(whole, name)


def test_echo_gives_the_log_probabilities_of_the_prompt(client: openai.OpenAI) -> None:
    for stream in (False, True):
        reply = complete(client, echo=True, logprobs=1, stream=stream)
        choices = [chunk.choices[0] for chunk in reply] if stream else [reply.choices[0]]
        assert "".join(choice.text for choice in choices) == PROMPT + " Paris.\n\n"
        parts = [choice.logprobs for choice in choices if choice.logprobs]
        tokens = [token for part in parts for token in part.tokens]
        values = [value for part in parts for value in part.token_logprobs]
        assert "".join(tokens) == PROMPT + " Paris.\n\n"
        assert values[0] is None
        assert all(value <= 0 for value in values[1:])
    alone = complete(client, logprobs=1).choices[0].logprobs
    assert values[5:] == alone.token_logprobs


def test_a_text_is_only_scored(client: openai.OpenAI) -> None:
    long = " ".join(f"{n} is a number." for n in range(60))  # several blocks of the cache
    reply = complete(client, long, echo=True, logprobs=0, max_tokens=0)
    choice = reply.choices[0]
    assert (choice.text, choice.finish_reason, reply.usage.completion_tokens) == (long, "length", 0)
    values = choice.logprobs.token_logprobs
    assert len(values) == reply.usage.prompt_tokens > 200
    assert math.isclose(
        values[-1], complete(client, long, echo=True, logprobs=0, max_tokens=0).choices[0].logprobs.token_logprobs[-1]
    )
    assert sum(values[len(values) // 2 :]) > sum(values[1 : len(values) // 2])  # by then it has seen the pattern
    assert [chunk.choices[0].text for chunk in complete(client, echo=True, max_tokens=0, stream=True)] == [PROMPT, ""]


def test_the_best_is_the_likeliest(client: openai.OpenAI) -> None:
    parameters: Any = {"temperature": 1.5, "seed": 7, "logprobs": 0}
    every = complete(client, n=4, **parameters).choices
    means = [sum(one.logprobs.token_logprobs) / len(one.logprobs.token_logprobs) for one in every]
    best = complete(client, best_of=4, **parameters)
    assert len(best.choices) == 1
    assert best.choices[0].text == every[means.index(max(means))].text
    assert best.usage.completion_tokens == 16
    two = complete(client, n=2, best_of=4, temperature=1.5, seed=7).choices
    assert two[0].text == best.choices[0].text
    assert two[0].logprobs is None


def test_grammars(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
    for name in ("json_schema", "guided_json"):
        text = complete(client, "JSON:", max_tokens=40, extra_body={name: schema}).choices[0].text
        assert json.loads(text)["city"] in ("Paris", "Rome")
    for grammar in ({"guided_choice": ["4", "5"]}, {"grammar": 'root ::= "4" | "5"'}, {"guided_regex": "4|5"}):
        choice = complete(client, "2 + 2 =", extra_body=grammar).choices[0]
        assert choice.text in ("4", "5")
        assert choice.finish_reason == "stop"


def test_sampling(client: openai.OpenAI) -> None:
    assert complete(client, stop=["."]).choices[0].text == " Paris"
    assert complete(client, logit_bias={"7042": -100}).choices[0].text != " Paris.\n\n"
    hot: Any = {"temperature": 2, "seed": 1}
    assert complete(client, extra_body={"top_k": 1}, **hot).choices[0].text == " Paris.\n\n"
    assert complete(client, top_p=0.01, **hot).choices[0].text == " Paris.\n\n"
    assert complete(client, extra_body={"ignore_eos": True, "num_ctx": 20}, max_tokens=-1).usage.total_tokens == 20


def test_what_changes_nothing_is_taken(client: openai.OpenAI) -> None:
    parameters = {"user": "me", "best_of": 1, "n": 1, "echo": False, "suffix": None, "logit_bias": {}, "stop": None}
    extra = {"keep_alive": 300, "priority": -1, "cache_prompt": True, "frequency_penalty": 0, "presence_penalty": 0}
    assert complete(client, **parameters, extra_body=extra).choices[0].text == " Paris.\n\n"


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ({"best_of": 1, "n": 2}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"best_of": 0}, "best_of"),
        ({"n": 129}, "n"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"echo": True, "suffix": "x"}, "echo"),
        ({"suffix": "x"}, "suffix"),  # the model has no tokens for it
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -2}, "max_tokens"),
        ({"stream_options": {}}, "stream_options"),
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ["a"] * 129}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": [1, 10**9]}, "prompt"),
        ({"prompt": [1, -1], "echo": True}, "prompt"),
        ({"prompt": [10**9], "echo": True, "logprobs": 1, "max_tokens": 0}, "prompt"),
        ({"prompt": "word " * 9000, "echo": True, "logprobs": 1, "max_tokens": 0}, "prompt"),
        ({"model": 7}, "model"),
        ({"messages": []}, "messages"),
        ({"grammar": "root ::= ("}, "grammar"),
        ({"cache_prompt": False}, "cache_prompt"),
    ],
)
def test_what_is_refused_is_named(client: openai.OpenAI, parameters: dict[str, Any], name: str) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        complete(client, extra_body=parameters)
    assert name in error.value.message


def test_the_context_is_a_limit_that_is_told(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        complete(client, "word " * 100, extra_body={"num_ctx": 50})
    assert error.value.code == "context_length_exceeded"
    assert "50" in error.value.message
