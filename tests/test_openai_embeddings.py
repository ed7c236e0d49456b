"""Embeddings, by the real client of OpenAI, from a real model."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from server import openai_client

MODEL = "smollm2"


@pytest.fixture(scope="module")
def client(smollm2_path: Path) -> Iterator[openai.OpenAI]:
    with openai_client({MODEL: smollm2_path}) as client:
        yield client


def embed(client: openai.OpenAI, text: Any, **parameters: Any) -> np.ndarray:
    reply = client.embeddings.create(model=MODEL, input=text, **parameters)
    assert [entry.index for entry in reply.data] == list(range(len(reply.data)))
    return np.array([entry.embedding for entry in reply.data], np.float32)


def test_texts_become_vectors(client: openai.OpenAI) -> None:
    vectors = embed(client, ["A cat sleeps.", "A kitten naps.", "Interest rates rise."])
    assert vectors.shape == (3, 576)
    assert np.allclose((vectors**2).sum(axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]


def test_both_encodings_are_the_same_numbers(client: openai.OpenAI) -> None:
    packed = embed(client, "Hello")  # the client asks for base64 and unpacks it
    assert (embed(client, "Hello", encoding_format="float") == packed).all()
    body = {"model": MODEL, "input": "Hello", "encoding_format": "base64"}
    reply = httpx.post(f"{client.base_url}embeddings", json=body).json()
    raw = np.frombuffer(base64.b64decode(reply["data"][0]["embedding"]), "<f4")
    assert (raw == packed[0]).all()
    assert reply["usage"] == {"prompt_tokens": 1, "total_tokens": 1}
    assert reply["model"] == MODEL


def test_inputs_of_all_kinds(client: openai.OpenAI) -> None:
    ids = [6403, 1980, 253, 655]
    vector = embed(client, "Once upon a time")
    assert (embed(client, ids) == vector).all()
    assert (embed(client, [ids, ids])[1] == vector[0]).all()


def test_dimensions_are_those_of_the_model(client: openai.OpenAI) -> None:
    assert embed(client, "Hi", dimensions=576, user="me", extra_body={"keep_alive": "1m"}).shape == (1, 576)


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ({"dimensions": 64}, "dimensions"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": [10**9]}, "vocabulary"),
        ({"input": "word " * 9000}, "context"),
        ({"input_type": "query"}, "input_type"),
    ],
)
def test_what_is_refused_is_named(client: openai.OpenAI, parameters: dict[str, Any], name: str) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.embeddings.create(model=MODEL, input="x", extra_body=parameters)
    assert name in error.value.message
