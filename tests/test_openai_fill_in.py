"""Filling in by the OpenAI API, from a mock of a model for code."""

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from mock_model import MockModel, mock_engine
from server import openai_client
from test_fill_in import QWEN, tokenizer

from llmrun.runner.model_plan import ModelPlan

MIDDLE = "return a + b"
BEFORE, AFTER = "def add(a, b):\n    ", "\n\nprint(add(1, 2))"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    vocabulary = tokenizer(QWEN)
    words, (prefix, middle, suffix) = vocabulary.encode(MIDDLE), map(vocabulary.token_id, QWEN[:3])
    expected = [prefix, *vocabulary.encode(BEFORE), suffix, *vocabulary.encode(AFTER), middle]

    def choose(history: list[int]) -> int:
        assert history[: len(expected)] == expected
        return [*words, prefix][len(history) - len(expected)]

    def load(*_: Any) -> Any:
        model = MockModel(choose)
        return mock_engine(model, tokenizer=vocabulary)

    path = tmp_path_factory.mktemp("models") / "coder.gguf"
    path.write_bytes(b"coder")
    with openai_client({"coder": path}, load=load, plan=lambda *_: ModelPlan(1, 1, 4096, 1)) as client:
        yield client


def test_a_suffix_makes_a_completion_fill_in(client: openai.OpenAI) -> None:
    reply = client.completions.create(model="coder", prompt=BEFORE, suffix=AFTER, temperature=0, max_tokens=50)
    assert reply.choices[0].text == MIDDLE
    assert reply.choices[0].finish_reason == "stop"  # at a marker, which is no part of the text
    chunks = client.completions.create(
        model="coder", prompt=BEFORE, suffix=AFTER, temperature=0, max_tokens=50, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in chunks) == MIDDLE


@pytest.mark.parametrize("path", ["fim/completions", "../fim/completions"])
def test_the_route_of_editors(client: openai.OpenAI, path: str) -> None:
    body = {"model": "coder", "prompt": BEFORE, "suffix": AFTER, "temperature": 0, "random_seed": 1, "min_tokens": 0}
    url = client.base_url.join(path)
    reply = httpx.post(str(url), json=body).json()
    assert reply["object"] == "chat.completion"
    assert reply["choices"] == [
        {"index": 0, "message": {"role": "assistant", "content": MIDDLE}, "finish_reason": "stop"}
    ]
    with httpx.stream("POST", str(url), json={**body, "stream": True}) as stream:
        events = [line.removeprefix("data: ") for line in stream.iter_lines() if line]
    assert events.pop() == "[DONE]"
    deltas = [httpx.Response(200, text=event).json()["choices"][0]["delta"]["content"] for event in events]
    assert "".join(deltas) == MIDDLE


def test_what_does_not_fit_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.completions.create(model="coder", prompt="x" * 9000, suffix="y")
    assert error.value.code == "context_length_exceeded"
    reply = httpx.post(f"{client.base_url}fim/completions", json={"model": "coder", "prompt": "x", "min_tokens": 5})
    assert reply.status_code == 400
    assert "min_tokens" in reply.json()["error"]["message"]
