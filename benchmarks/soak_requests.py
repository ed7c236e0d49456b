"""What the clients of the load test ask: some sixty requests with one right answer each, and what must be refused."""

import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from soak_client import http

WORDS = ("time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school", "state")
TOPICS = ("the sea", "a small town in winter", "why leaves are green", "how bread is made", "two friends on a train")
NAME = {"type": "string", "maxLength": 12}
PERSON = {
    "type": "object",
    "properties": {"name": NAME, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}  # fmt: skip
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Rome", "Oslo"]}, "days": {"enum": [1, 2, 3]}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
SHORT_LIST = 'root ::= item item item\nitem ::= "- " [a-z]+ "\\n"'
MANY = 48 << 20  # bytes, more than a server takes by default


@dataclass(frozen=True)
class Ask:
    """A request that is well formed."""

    name: str
    path: str
    body: Any


@dataclass(frozen=True)
class Refused:
    """Bytes that are no good request, and the statuses that say so; none are a connection that is just closed."""

    name: str
    data: bytes
    statuses: tuple[int, ...]


def user(text: str) -> list[dict[str, str]]:
    """A conversation of one message."""
    return [{"role": "user", "content": text}]


def long_text(n_words: int, seed: int) -> str:
    """Each of the words is a token."""
    return " ".join(random.Random(seed).choices(WORDS, k=n_words))


def pool(model: str) -> list[Ask]:
    """All requests that have an answer; the same ones each time, so that it is the same answer."""
    made = [*_chats(model), *_completions(model), *_responses(model), *_ollama(model), *_anthropic(model)]
    made += [*_llama_server(model), *_others(model)]
    return [Ask(f"{i:02} {path} {name}", path, body) for i, (path, name, body) in enumerate(made)]


Made = Iterator[tuple[str, str, dict[str, Any]]]


def _chats(model: str) -> Made:
    path = "/v1/chat/completions"
    for i, topic in enumerate(TOPICS):
        base = {"model": model, "messages": user(f"Write about {topic}."), "max_tokens": (5, 17, 40, 64, 120)[i]}
        yield path, "greedy", {**base, "temperature": 0}
        stream = {**base, "stream": True, "stream_options": {"include_usage": True}}
        yield path, "sampled stream", {**stream, "seed": 7 + i, "temperature": 1.0, "priority": i - 2}
    chat = {"model": model, "max_tokens": 48, "temperature": 0}
    yield path, "two answers", {**chat, "messages": user("Name a colour."), "n": 2, "seed": 5, "temperature": 0.9}
    yield path, "logprobs", {**chat, "messages": user("Count to nine."), "logprobs": True, "top_logprobs": 3}
    yield path, "long prompt", {**chat, "messages": user(long_text(600, 1)), "stream": True}
    yield path, "stop and penalties", {**chat, "messages": user("List ten animals."), "stop": ["4."],
                                       "presence_penalty": 0.5, "repeat_penalty": 1.2}  # fmt: skip
    turns = [*user("My name is Ada."), {"role": "assistant", "content": "Hello Ada."}, *user("What is my name?")]
    yield path, "turns", {**chat, "messages": [{"role": "system", "content": "Be brief."}, *turns]}
    schema = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    yield path, "schema", {**chat, "messages": user("Describe a person in JSON."), "response_format": schema}
    yield path, "schema stream", {**chat, "messages": user("A person."), "response_format": schema, "stream": True}
    free = {"type": "json_object"}
    yield path, "object", {**chat, "messages": user("Some JSON."), "response_format": free, "max_tokens": 30}
    yield path, "choice", {**chat, "messages": user("Do you like tea?"), "guided_choice": ["yes", "no", "perhaps"]}
    tools = [{"type": "function", "function": {"name": "travel", "description": "Book a trip.", "parameters": CITY}}]
    call = {**chat, "messages": user("Book me a trip to Rome."), "tools": tools}
    yield path, "tool that must be called", {**call, "tool_choice": "required"}
    named = {"type": "function", "function": {"name": "travel"}}
    yield path, "named tool, stream", {**call, "tool_choice": named, "parallel_tool_calls": False, "stream": True}
    yield path, "tool that may be called", {**call, "tool_choice": "auto", "max_tokens": 30}


def _completions(model: str) -> Made:
    path = "/v1/completions"
    base = {"model": model, "temperature": 0}
    yield path, "greedy", {**base, "prompt": "Once upon a time", "max_tokens": 60}
    yield path, "stream", {**base, "prompt": "Once upon a time", "max_tokens": 33, "stream": True}
    yield path, "several prompts", {**base, "prompt": ["The capital of France is", "Two and two is"], "max_tokens": 9}
    yield path, "ids", {**base, "prompt": [504, 3575, 282, 4649, 314], "max_tokens": 12, "logprobs": 2}
    sampled = {**base, "temperature": 0.8, "seed": 3, "max_tokens": 10}
    yield path, "best of three", {**sampled, "prompt": "I like", "best_of": 3, "n": 2}
    yield path, "echo", {**sampled, "prompt": "I like", "echo": True, "logprobs": 1}
    yield (
        path,
        "regex",
        {**base, "prompt": "My phone number is ", "guided_regex": "[0-9]{3}-[0-9]{4}", "max_tokens": 20},
    )
    yield path, "grammar", {**base, "prompt": "Fruit:\n", "grammar": SHORT_LIST, "max_tokens": 40, "stream": True}


def _responses(model: str) -> Made:
    path = "/v1/responses"
    base = {"model": model, "temperature": 0, "max_output_tokens": 30, "store": False}
    yield path, "text", {**base, "input": "Say something nice."}
    yield path, "stream", {**base, "input": "Say something nice.", "instructions": "Rhyme.", "stream": True}
    schema = {"format": {"type": "json_schema", "name": "city", "schema": CITY}}
    yield path, "schema", {**base, "input": "Where to?", "text": schema}
    tools = [{"type": "function", "name": "travel", "parameters": CITY}]
    yield path, "tool, stream", {**base, "input": "Book.", "tools": tools, "tool_choice": "required", "stream": True}


def _ollama(model: str) -> Made:
    options = {"temperature": 0, "num_predict": 25}
    chat = {"model": model, "messages": user("What is a river?"), "options": options}
    yield "/api/chat", "lines", chat
    yield "/api/chat", "whole", {**chat, "stream": False, "options": {"seed": 4, "num_predict": 50}}
    yield "/api/chat", "format", {**chat, "format": PERSON, "stream": False}
    yield "/api/chat", "small context", {**chat, "options": {**options, "num_ctx": 64, "num_predict": -1}}
    generate = {"model": model, "prompt": "Why is the sky blue?", "options": options}
    yield "/api/generate", "lines", generate
    yield "/api/generate", "raw", {**generate, "raw": True, "stream": False}
    yield "/api/embed", "several", {"model": model, "input": ["one text", "another text", long_text(100, 2)]}
    yield "/api/embeddings", "one", {"model": model, "prompt": "one text"}


def _anthropic(model: str) -> Made:
    path = "/v1/messages"
    base = {"model": model, "max_tokens": 35, "temperature": 0, "messages": user("Tell me a short joke.")}
    yield path, "text", base
    yield path, "stream", {**base, "stream": True, "system": "You are a pirate."}
    yield path, "stop", {**base, "stop_sequences": [".", "!"], "stream": True}
    tools = [{"name": "travel", "description": "Book a trip.", "input_schema": CITY}]
    yield path, "tool", {**base, "tools": tools, "tool_choice": {"type": "tool", "name": "travel"}}
    yield path, "tool, stream", {**base, "tools": tools, "tool_choice": {"type": "any"}, "stream": True}
    yield "/v1/messages/count_tokens", "count", {"model": model, "messages": user(long_text(200, 3))}


def _llama_server(model: str) -> Made:
    base = {"model": model, "prompt": "A long time ago", "temperature": 0, "seed": 1, "n_predict": 45}
    yield "/completion", "whole", base
    yield "/completion", "stream", {**base, "stream": True, "n_probs": 2}
    yield "/completion", "schema", {**base, "json_schema": PERSON}
    yield "/tokenize", "text", {"model": model, "content": long_text(300, 4), "with_pieces": True}
    yield "/detokenize", "ids", {"model": model, "tokens": list(range(300, 500))}
    yield "/apply-template", "chat", {"model": model, "messages": user("Hello")}


def _others(model: str) -> Made:
    path = "/v1/embeddings"
    yield path, "texts", {"model": model, "input": ["a cat", "a dog", long_text(50, 5)]}
    yield path, "base64", {"model": model, "input": long_text(250, 6), "encoding_format": "base64"}


def fresh(model: str, number: int) -> Ask:
    """A request that nobody made before; the answer alone is obtained when the load is over."""
    rng = random.Random(number)
    text = f"{number}: {long_text(rng.randrange(3, 90), number)}. Go on."
    body = {"model": model, "messages": user(text), "max_tokens": rng.randrange(1, 60), "seed": number}
    path = rng.choice(("/v1/chat/completions", "/api/chat"))
    if path == "/api/chat":
        body["options"] = {"num_predict": body.pop("max_tokens"), "seed": body.pop("seed")}
    return Ask(f"fresh {number} {path}", path, {**body, "stream": rng.random() < 0.5})


def refused(model: str) -> list[Refused]:
    """Requests that a server must not answer, and must survive."""
    return [*_wrong(model), *_no_json(), *_garbage(), *_huge(model)]


def _wrong(model: str) -> Iterator[Refused]:
    chat = {"model": model, "messages": user("Hello"), "max_tokens": 5}
    for path, body, status in (
        ("/v1/chat/completions", {**chat, "model": "no-such-model"}, 404),
        ("/v1/chat/completions", {**chat, "model": "../../etc/passwd"}, 404),
        ("/v1/chat/completions", {**chat, "temperature": -1}, 400),
        ("/v1/chat/completions", {**chat, "max_tokens": "many"}, 400),
        ("/v1/chat/completions", {**chat, "colour": "blue"}, 400),
        ("/v1/chat/completions", {**chat, "messages": []}, 400),
        ("/v1/chat/completions", {**chat, "messages": user(long_text(20_000, 1))}, 400),
        ("/v1/chat/completions", {**chat, "response_format": {"type": "json_schema", "json_schema": {}}}, 400),
        ("/v1/chat/completions", {**chat, "guided_regex": "(["}, 400),
        ("/v1/completions", {"model": model, "prompt": [10**9]}, 400),
        ("/v1/embeddings", {"model": model, "input": ""}, 400),
        ("/v1/responses", {"model": model, "input": [{"type": "nothing"}]}, 400),
        ("/api/chat", {"model": "no-such-model", "messages": user("Hello")}, 404),
        ("/api/generate", {"model": model, "prompt": "Hello", "options": {"top_p": 7}}, 400),
        ("/v1/messages", {"model": model, "messages": user("Hello")}, 400),
        ("/v1/messages", {"model": "no-such-model", "messages": user("Hello"), "max_tokens": 5}, 404),
        ("/completion", {"model": model, "prompt": "Hello", "grammar": "root ::= ("}, 400),
        ("/detokenize", {"model": model, "tokens": [-1]}, 400),
        ("/v1/nothing", {}, 404),
    ):
        yield Refused(f"{path} {json.dumps(body)[:60]}", http("POST", path, body), (status,))
    yield Refused("a method", http("PATCH", "/v1/chat/completions", chat), (405,))
    foreign = http("POST", "/v1/chat/completions", chat).replace(b"Host: localhost", b"Host: evil.example")
    yield Refused("a foreign Host", foreign, (403,))
    page = http("POST", "/v1/chat/completions", chat, ("Origin: https://evil.example",))
    yield Refused("a foreign Origin", page, (403,))


def _no_json() -> Iterator[Refused]:
    texts = (b"", b"{", b"[1,2", b"\xff\xfe{}", b'{"model": NaN}', b'"' + b"x" * 1000, b"[" * 5000, b'{"a":1,"a":2}')
    for path, text in itertools.product(("/v1/chat/completions", "/api/generate", "/v1/messages"), texts):
        yield Refused(f"{path} {text[:20]!r}", http("POST", path, text), (400,))


def _garbage() -> Iterator[Refused]:
    noise = random.Random(1).randbytes(3000)
    yield Refused("noise", noise + b"\r\n\r\n", (400,))
    yield Refused("another protocol", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + noise[:200] + b"\n\n", (400,))
    yield Refused("a request and noise", http("GET", "/health", is_last=False) + noise + b"\n\n", (200, 400))
    yield Refused("two lengths", http("POST", "/api/chat", b"{}", ("Content-Length: 2", "Content-Length: 3")), (400,))
    yield Refused("a length that is none", http("POST", "/api/chat", b"{}", ("Content-Length: x",)), (400,))
    chunks = http("POST", "/api/chat", b"ZZ\r\n{}\r\n0\r\n\r\n", ("Transfer-Encoding: chunked",))
    yield Refused("chunks that are none", chunks, (400,))
    yield Refused("an endless head", b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 200_000, (400, 431))


def _huge(model: str) -> Iterator[Refused]:
    announced = http("POST", "/v1/chat/completions", b"{", (f"Content-Length: {MANY}",))
    yield Refused("a body that is announced to be huge", announced, (413,))
    chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    head = http("POST", "/v1/chat/completions", b"", ("Transfer-Encoding: chunked",))
    yield Refused("a huge body in chunks", head + chunk * (MANY >> 20), (413,))
    text = {"model": model, "messages": user("word " * 200_000), "max_tokens": 5}
    yield Refused("a megabyte of text", http("POST", "/v1/chat/completions", text), (400,))
