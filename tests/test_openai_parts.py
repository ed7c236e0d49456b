"""The parts of the OpenAI API, without a server: strings, chunks, log probabilities, messages, merged streams."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mock_model import ByteTokenizer
from pydantic import TypeAdapter

from llmrun.cli.server.json_text import compact, quoted
from llmrun.cli.server.merge import merged
from llmrun.cli.server.openai_chat_chunks import ChatChunks, tool_call_deltas
from llmrun.cli.server.openai_messages import Message, template_messages
from llmrun.cli.server.openai_reply import TextLogprobs, chat_logprobs, finite
from llmrun.runner.piece import Piece, TokenLogprobs
from llmrun.runner.tool import ToolCallDelta

TEXTS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('\x85\u2028\u2029\x0b\x0c\x1c\n\r"\\'))


@given(TEXTS)
def test_json_is_one_line_by_anyones_rules(text: str) -> None:
    for written, value in ((quoted(text), text), (compact({text: [text]}), {text: [text]})):
        assert json.loads(written) == value
        assert len(written.splitlines()) == 1


@given(TEXTS, TEXTS)
def test_both_ways_to_write_a_chunk_are_the_same(text: str, model: str) -> None:
    for has_usage in (False, True):
        chunks = ChatChunks({"id": "x", "model": model}, has_usage)
        event = chunks.text(3, "content", text)
        assert event == chunks.delta(3, {"content": text})
        assert event.startswith("data: ")
        assert event.endswith("\n\n")
        data = json.loads(event[6:])
        assert data["choices"] == [{"index": 3, "delta": {"content": text}, "logprobs": None, "finish_reason": None}]
        assert ("usage" in data) == has_usage
        assert json.loads(chunks.usage({"a": 1})[6:])["choices"] == []


def test_only_the_first_delta_of_a_call_says_which() -> None:
    deltas = [
        ToolCallDelta(0, "call_1", "f", ""),
        ToolCallDelta(0, arguments='{"a"'),
        ToolCallDelta(0, arguments=":1}"),
    ]
    first, *others = tool_call_deltas(deltas)
    assert first == {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}
    assert others == [{"index": 0, "function": {"arguments": part}} for part in ('{"a"', ":1}")]


def test_logprobs_of_parts_of_characters() -> None:
    euro = "€".encode()
    pieces = [Piece(byte, "", TokenLogprobs(-1.0, ((byte, -1.0), (65, -2.0)))) for byte in euro]
    content = chat_logprobs(pieces, ByteTokenizer())["content"]
    assert bytes(byte for entry in content for byte in entry["bytes"]).decode() == "€"
    lists = TextLogprobs(ByteTokenizer(), 2).of(
        [*((p.id, -1.0, p.logprobs.top) for p in pieces if p.logprobs), (65, -3.0, ())]
    )
    assert lists["tokens"] == ["bytes:\\xe2", "bytes:\\x82", "bytes:\\xac", "A"]
    assert lists["text_offset"] == [0, 0, 0, 1]
    assert lists["top_logprobs"][0] == {"bytes:\\xe2": -1.0, "A": -2.0}
    assert lists["top_logprobs"][3] == {"A": -3.0}


def test_a_probability_of_nothing_is_a_number() -> None:
    assert finite(float("-inf")) == -9999.0
    assert finite(-0.12345678) == -0.123457


def test_messages_become_what_templates_want() -> None:
    given: list[dict[str, Any]] = [
        {"role": "developer", "content": "a"},
        {"role": "user", "content": [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}], "name": "Ada"},
        {
            "role": "assistant",
            "reasoning_content": "hm",
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "2"},
        {"role": "assistant", "refusal": "no", "content": None},
    ]
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    assert template_messages(TypeAdapter(list[Message]).validate_python(given)) == (
        {"role": "system", "content": "a"},
        {"role": "user", "content": "b\nc", "name": "Ada"},
        {"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": [call]},
        {"role": "tool", "content": "2", "tool_call_id": "1", "name": "f"},
        {"role": "assistant", "content": "no"},
    )


def test_streams_are_read_together() -> None:
    async def count(n: int) -> AsyncIterator[int]:
        for i in range(n):
            await asyncio.sleep(0)
            yield i

    async def read(sizes: list[int]) -> list[tuple[int, int | None]]:
        return [pair async for batch in merged([count(n) for n in sizes]) for pair in batch]

    for sizes in ([3], [3, 0, 2], []):
        pairs = asyncio.run(read(sizes))
        for i, n in enumerate(sizes):
            assert [item for j, item in pairs if j == i] == [*range(n), None]


def test_an_error_of_one_stream_ends_all() -> None:
    async def fail() -> AsyncIterator[int]:
        yield 1
        raise ValueError("broken")

    async def wait() -> AsyncIterator[int]:
        await asyncio.sleep(60)
        yield 1

    async def read() -> None:
        async for _ in merged([fail(), wait()]):
            pass

    with pytest.raises(ValueError, match="broken"):
        asyncio.run(read())
