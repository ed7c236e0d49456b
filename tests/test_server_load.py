"""The load test of the benchmarks, for some seconds, with a real model; what it reads is checked, too."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from benchmark_modules import benchmark_modules

MODULES = ("serving_process", "soak_client", "soak_answer", "soak_requests", "soak_load", "soak")


@pytest.fixture(scope="module")
def bench() -> Iterator[SimpleNamespace]:
    with benchmark_modules(*MODULES) as modules:
        yield modules


def answer(bench: Any, kind: str, *events: Any) -> Any:
    """What the load test reads from a stream."""
    texts = [event if isinstance(event, str) else json.dumps(event) for event in events]
    is_lines = kind == "application/x-ndjson"
    body = "".join(f"{text}\n" if is_lines else f"data: {text}\n\n" for text in texts)
    return bench.soak_answer.answer_of(bench.soak_client.Reply(200, kind, body.encode()))


def test_streams_are_equal_however_they_are_cut(bench: Any) -> None:
    def chunk(text: str, i: int = 0, **more: Any) -> dict[str, Any]:
        return {"id": str(i), "choices": [{"index": 0, "delta": {"content": text}, **more}]}

    def chat(*texts: str) -> Any:
        chunks = [chunk(text, i) for i, text in enumerate(texts)]
        return answer(bench, "text/event-stream", *chunks, chunk("", finish_reason="stop"), "[DONE]")

    assert chat("a", "bc") == chat("ab", "c") == chat("abc")
    assert chat("abc") != chat("abd")
    lines = [{"response": "ab", "done": False}, {"response": "c", "done": True, "eval_count": 3}]
    assert answer(bench, "application/x-ndjson", *lines)["/response"] == "abc"


def test_streams_that_break_off_are_seen(bench: Any) -> None:
    for kind, last in (
        ("application/x-ndjson", {"response": "ab", "done": False}),
        ("text/event-stream", {"choices": [{"index": 0, "delta": {"content": "a"}}]}),
        ("text/event-stream", {"type": "content_block_delta", "index": 0}),
    ):
        with pytest.raises(ValueError, match="the last"):
            answer(bench, kind, last)


def test_a_load_leaves_nothing_behind(bench: Any, smollm2_path: Path) -> None:
    outcome = bench.soak.run(smollm2_path, n_clients=16, seconds=3, step=5)
    # in so short a time memory is still growing to what it needs
    assert [fault for fault in outcome.faults if not fault.startswith("memory grew")] == []
    assert int(dict(outcome.rows)["answers compared"]) > 0
