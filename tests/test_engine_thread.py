"""An engine on its own thread: many callers, errors, callers that leave, unloading."""

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest
from mock_model import END, MockModel, mock_engine

from llmrun.quant_formats.errors import EngineClosed, LlmrunError, PromptTooLong, QueueFull
from llmrun.runner.batch import Batch
from llmrun.runner.engine_thread import EngineThread
from llmrun.runner.sampler import SamplingParams
from llmrun.runner.stream import Stream

GREEDY = SamplingParams(temperature=0, max_tokens=20)
NO_END = SamplingParams(temperature=0)


def with_thread(
    test: Callable[[EngineThread], Coroutine[Any, Any, None]], model: MockModel | None = None, max_queue: int = 512
) -> None:
    """Run a coroutine with a thread, which is closed in the end, and check that no block is held then."""
    model = model or MockModel()
    engine = mock_engine(model, n_ctx=256, n_parallel=4)

    async def run() -> None:
        thread = EngineThread(engine, max_queue)
        try:
            await asyncio.wait_for(test(thread), 60)
        finally:
            await thread.close()

    asyncio.run(run())
    assert model.is_closed
    assert engine.kv_cache.n_free == engine.kv_cache.n_blocks


async def text_of(stream: Stream) -> str:
    return "".join([piece.text for pieces in [p async for p in stream] for piece in pieces])


def test_many_at_once_get_what_they_get_alone() -> None:
    prompts = [f"prompt {i} ".encode() * (1 + i % 7) for i in range(30)]
    alone = []
    for prompt in prompts:
        engine = mock_engine(MockModel(), n_ctx=256)
        generation = engine.submit(list(prompt), GREEDY)
        list(generation)
        alone.append(generation.text)

    async def test(thread: EngineThread) -> None:
        streams = [thread.submit(list(prompt), GREEDY, client=str(i % 3)) for i, prompt in enumerate(prompts)]
        assert await asyncio.gather(*map(text_of, streams)) == alone
        assert [stream.finish_reason for stream in streams] == ["length"] * len(prompts)
        assert all(stream.text == text for stream, text in zip(streams, alone, strict=True))
        assert all(len(stream.ids) == 20 == stream.stats.n_generated for stream in streams)

    with_thread(test)


def test_who_leaves_stops_the_work() -> None:
    model = MockModel(lambda history: ord("x"))

    async def test(thread: EngineThread) -> None:
        for leave in ("cancel", "task", "forget"):
            stream = thread.submit(list(b"go on"), NO_END)
            await anext(stream)
            if leave == "cancel":
                stream.cancel()
                await text_of(stream)
                assert stream.finish_reason == "cancelled"
            elif leave == "task":
                task = asyncio.create_task(text_of(stream))
                await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            del stream
            gc.collect()
            await until(lambda: thread.n_running == 0)

    with_thread(test, model)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_a_request_that_cannot_be_is_refused_at_once() -> None:
    async def test(thread: EngineThread) -> None:
        with pytest.raises(PromptTooLong):
            thread.submit([1] * 300, GREEDY)
        with pytest.raises(PromptTooLong, match="context of 8"):
            thread.submit([1] * 9, GREEDY, n_ctx=8)
        stream = thread.submit([1] * 4, NO_END, n_ctx=8)
        await text_of(stream)
        assert stream.finish_reason == "context"
        assert len(stream.ids) == 4

    with_thread(test)


def test_a_full_queue_refuses() -> None:
    async def test(thread: EngineThread) -> None:
        streams = [thread.submit(list(b"go on"), NO_END) for _ in range(3)]
        with pytest.raises(QueueFull):
            thread.submit(list(b"one more"), GREEDY)
        for stream in streams:
            stream.cancel()
            await text_of(stream)
        await text_of(thread.submit(list(b"one more"), GREEDY))

    with_thread(test, MockModel(lambda history: ord("x")), max_queue=3)


def test_a_call_runs_between_two_steps() -> None:
    async def test(thread: EngineThread) -> None:
        stream = thread.submit(list(b"go on"), GREEDY)
        assert await thread.call(lambda engine: engine.n_ctx) == 256
        with pytest.raises(ZeroDivisionError):
            await thread.call(lambda engine: 1 // 0)
        await text_of(stream)

    with_thread(test)


class BrokenModel(MockModel):
    """Fails once."""

    def forward(self, batch: Batch) -> np.ndarray:
        if len(self.batches) == 3:
            self.batches.append(batch)
            raise MemoryError("no more")
        return super().forward(batch)


def test_a_step_that_fails_ends_its_requests_and_no_others() -> None:
    async def test(thread: EngineThread) -> None:
        with pytest.raises(LlmrunError, match="log of the server"):
            await text_of(thread.submit(list(b"go on"), GREEDY))
        assert len(await text_of(thread.submit(list(b"go on"), GREEDY))) > 0

    with_thread(test, BrokenModel())


def test_closing_ends_what_runs_and_refuses_what_comes() -> None:
    async def test(thread: EngineThread) -> None:
        stream = thread.submit(list(b"go on"), NO_END)
        reading = asyncio.create_task(text_of(stream))
        await asyncio.sleep(0.01)
        await thread.close()
        await reading
        assert stream.finish_reason in ("cancelled", "context")
        with pytest.raises(EngineClosed):
            thread.submit(list(b"too late"), GREEDY)
        with pytest.raises(EngineClosed):
            await thread.call(lambda engine: None)

    with_thread(test, MockModel(lambda history: ord("x")))


def test_log_probabilities_come_with_the_pieces() -> None:
    async def test(thread: EngineThread) -> None:
        params = SamplingParams(temperature=0, max_tokens=3, logprobs=2)
        async for pieces in thread.submit(list(b"go on"), params):
            for piece in pieces:
                assert piece.logprobs is not None
                assert piece.logprobs.top[0] == (piece.id, piece.logprobs.chosen)
                assert piece.logprobs.chosen <= 0
                assert len(piece.logprobs.top) == 2

    with_thread(test)


class Only:
    """A constraint: one text, of which all but the first of each four letters is forced."""

    def __init__(self, text: str) -> None:
        self.ids = [*text.encode()]
        self.n_accepted = 0

    def mask(self) -> np.ndarray:
        allowed = np.zeros(320, bool)
        allowed[self.ids[self.n_accepted]] = True
        return allowed

    def accept(self, token: int) -> None:
        assert token == self.ids[self.n_accepted]
        self.n_accepted += 1

    def forced(self) -> list[int]:
        end = -(-self.n_accepted // 4) * 4
        return self.ids[self.n_accepted : end]

    @property
    def is_done(self) -> bool:
        return self.n_accepted == len(self.ids)


def test_a_constraint_is_kept_and_what_it_forces_takes_no_steps() -> None:
    model = MockModel(lambda history: END)

    async def test(thread: EngineThread) -> None:
        stream = thread.submit(list(b"say it"), NO_END, constraint=Only('{"a": [1, 2, 3]}'))
        assert await text_of(stream) == stream.text == '{"a": [1, 2, 3]}'
        assert stream.finish_reason == "stop"
        assert len(model.batches) == 4

    with_thread(test, model)
