"""Embeddings: what becomes of a text does not depend on what else is computed, and nothing else on it."""

import asyncio
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xllamacpp
from hypothesis import given, settings
from hypothesis import strategies as st
from mock_model import N_VOCAB, ByteTokenizer, MockModel, mock_engine
from random_models import CONTEXT, write_random_model
from random_models import N_VOCAB as RANDOM_VOCAB

from llmrun.quant_formats.errors import CorruptFile, OutOfMemory, PromptTooLong, UsageError
from llmrun.quant_formats.gguf_file import GGUFFile
from llmrun.runner import Engine, SamplingParams, embedding
from llmrun.runner.batch import Batch
from llmrun.runner.config import ModelConfig
from llmrun.runner.cpu_model import CPUModel
from llmrun.runner.embed_texts import embed_texts
from llmrun.runner.embedding import EmbeddingRequest
from llmrun.runner.engine_thread import EngineThread

POOLINGS = ("mean", "cls", "last")


def expected(ids: list[int], pooling: str, *, normalize: bool) -> np.ndarray:
    states = np.array([MockModel.hidden_state(ids[: i + 1]) for i in range(len(ids))], np.float64)
    vector = {"mean": states.mean(axis=0), "cls": states[0], "last": states[-1]}[pooling]
    return (vector / np.linalg.norm(vector) if normalize else vector).astype(np.float32)


texts = st.lists(st.integers(0, 3).flatmap(lambda i: st.integers(1, (5, 70, 140, 400)[i])), min_size=1, max_size=40)


@settings(deadline=None)
@given(
    requests=st.lists(st.tuples(texts, st.sampled_from(POOLINGS), st.booleans(), st.integers(0, 12)), max_size=4),
    data=st.data(),
)
def test_requests_share_batches(requests: list[tuple[list[int], str, bool, int]], data: st.DataObject) -> None:
    """Requests that come at any time, some of them cancelled: the others get the vectors that they get alone."""
    engine = mock_engine(MockModel(), n_ctx=1024)
    running: list[tuple[EmbeddingRequest, list[list[int]], str, bool]] = []
    for lengths, pooling, normalize, n_steps in requests:
        ids = [np.random.default_rng(n).integers(0, N_VOCAB, n).tolist() for n in lengths]
        running.append((engine.embedder.submit(ids, pooling, normalize), ids, pooling, normalize))
        for _ in range(n_steps):
            engine.embedder.step()
        if data.draw(st.integers(0, 3)) == 0:
            data.draw(st.sampled_from(running))[0].cancel()
    while not all(request.is_done for request, *_ in running):
        engine.embedder.step()
    for request, ids, pooling, normalize in running:
        if not request.is_cancelled:
            wanted = np.array([expected(text, pooling, normalize=normalize) for text in ids])
            np.testing.assert_allclose(request.vectors(), wanted, rtol=1e-6)
    engine.embedder.step()  # takes out what was cancelled last
    assert len(engine.embedder._free) == engine.embedder._n_blocks


def test_short_texts_are_computed_together() -> None:
    model = MockModel()
    engine = mock_engine(model, n_ctx=1024)
    engine.embed([[1, 2, 3]] * 30)
    assert [batch.n_tokens for batch in model.batches] == [90]


def test_a_request_of_many_texts_lets_others_in() -> None:
    engine = mock_engine(MockModel(), n_ctx=1024)
    many, one = engine.embedder.submit([[1] * 100] * 50), engine.embedder.submit([[2] * 100])
    for _ in range(3):
        engine.embedder.step()
    assert one.is_done
    assert not many.is_done


def test_running_answers_lose_nothing() -> None:
    """With a cache that is full to the last block."""
    model = MockModel()
    engine = mock_engine(model, n_ctx=128)
    params = SamplingParams(temperature=0, max_tokens=100)
    alone = "".join(piece.text for piece in engine.generate("abc" * 7, params))
    engine.kv_cache.clear()
    found, n_cached = "", []
    for piece in engine.generate("abc" * 7, params):
        found += piece.text
        n_cached.append(engine.kv_cache.n_free + engine.kv_cache.n_cached)
        engine.embed([[1, 2, 3] * 40, [7]])
    assert found == alone


def test_what_cannot_be_embedded() -> None:
    engine = mock_engine(MockModel(), n_ctx=128)
    assert engine.embed([]).shape == (0, 8)
    with pytest.raises(UsageError, match="text 2 of 2 is empty"):
        engine.embed([[1], []])
    with pytest.raises(PromptTooLong, match="129 tokens, more than the context of 128"):
        engine.embed([[1] * 129])
    with pytest.raises(UsageError, match="vocabulary"):
        engine.embed([[N_VOCAB]])
    with pytest.raises(UsageError, match="'rank' makes no vector of a text; choose one of mean, cls, last"):
        engine.embed([[1]], pooling="rank")


def test_out_of_memory_is_the_request_s_own_error(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = mock_engine(MockModel(), n_ctx=4096)
    engine.embed([[1]])
    monkeypatch.setattr(embedding, "available_memory", lambda: 1000)
    short, long = engine.embedder.submit([[1]]), engine.embedder.submit([[1] * 4000, [2]])
    while not (short.is_done and long.is_done):
        engine.embedder.step()
    assert short.vectors().shape == (1, 8)
    with pytest.raises(OutOfMemory, match="embedding takes"):
        long.vectors()
    assert engine.embed([[3]]).shape == (1, 8)


def test_a_step_that_fails_ends_the_requests_in_it() -> None:
    model = MockModel()
    engine = mock_engine(model, n_ctx=1024)
    engine.embedder.step()
    first, second = engine.embedder.submit([[1] * 128]), engine.embedder.submit([[2]])
    hidden, calls = model.hidden, []

    def failing(batch: Batch) -> np.ndarray:
        calls.append(batch)
        if len(calls) == 1:
            raise RuntimeError("broken")
        return hidden(batch)

    model.hidden = failing  # type: ignore[method-assign]
    while not (first.is_done and second.is_done):
        engine.embedder.step()
    with pytest.raises(RuntimeError, match="broken"):
        first.vectors()
    assert second.vectors().shape == (1, 8)


def test_answers_and_many_callers_take_turns() -> None:
    """Between two steps of an answer comes at most one batch, however many ask."""
    model = MockModel()
    engine = mock_engine(model, n_ctx=1024, n_parallel=2)

    async def run() -> None:
        thread = EngineThread(engine)
        stream = thread.submit([1, 2, 3], SamplingParams(temperature=0, max_tokens=300))
        texts = [[[i] * 100] * 5 for i in range(6)]
        vectors = await asyncio.gather(*(embed_texts(thread, text) for text in texts))
        stream.cancel()
        for i, rows in enumerate(vectors):
            np.testing.assert_allclose(rows[0], expected([i] * 100, "mean", normalize=True), rtol=1e-6)
        await thread.close()

    asyncio.run(run())
    kinds = "".join("e" if batch.n_tokens > 50 else "a" for batch in model.batches)
    assert kinds.count("e") >= 24
    assert "ee" not in kinds.strip("e"), kinds


def test_an_interrupt_leaves_the_embedder_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    model = MockModel()
    engine = mock_engine(model, n_ctx=1024)
    hidden = model.hidden

    def interrupted(batch: object) -> np.ndarray:
        monkeypatch.setattr(model, "hidden", hidden)
        raise KeyboardInterrupt

    monkeypatch.setattr(model, "hidden", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.embed([[1] * 300])
    np.testing.assert_allclose(engine.embed([[1, 2]])[0], expected([1, 2], "mean", normalize=True), rtol=1e-6)
    assert len(engine.embedder._free) == engine.embedder._n_blocks


@pytest.mark.parametrize("number", [*range(5), None])
def test_the_file_says_how_to_pool(tmp_path: Path, number: int | None) -> None:
    with GGUFFile.open(write_random_model(tmp_path / "m.gguf", "llama", "F16", pooling=number)) as gguf:
        config = ModelConfig.from_gguf(gguf)
    assert config.pooling == (None if number is None else ("none", "mean", "cls", "last", "rank")[number])


def test_an_unknown_way_to_pool(tmp_path: Path) -> None:
    path = write_random_model(tmp_path / "m.gguf", "llama", "F16", pooling=9)
    with GGUFFile.open(path) as gguf, pytest.raises(CorruptFile, match=r"llama\.pooling_type is 9"):
        ModelConfig.from_gguf(gguf)


@pytest.fixture(scope="module")
def random_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("model") / "m.gguf", "qwen3", "Q8_0", pooling=3)


@pytest.fixture(scope="module")
def engines(random_path: Path) -> Iterator[list[Engine]]:
    """On one and on two threads."""
    engines = []
    for n_threads in (1, 2):
        with GGUFFile.open(random_path) as gguf:
            engines.append(Engine(CPUModel(gguf, n_threads), ByteTokenizer(), n_ctx=CONTEXT))  # type: ignore[arg-type]
    yield engines
    for engine in engines:
        engine.close()


@pytest.mark.parametrize("pooling", [None, "mean", "cls"])
def test_the_same_bits_in_any_company(engines: list[Engine], pooling: str | None) -> None:
    lengths = (1, 2, 63, 64, 65, 130, 300, 17, 5)
    ids = [np.random.default_rng(n).integers(0, RANDOM_VOCAB, n).tolist() for n in lengths]
    alone = np.concatenate([engines[0].embed([text], pooling) for text in ids])
    assert np.isfinite(alone).all()
    together = engines[1].embed(ids[::-1], pooling)[::-1]
    np.testing.assert_array_equal(together.view(np.uint32), alone.view(np.uint32))


def test_answers_are_the_same_beside_embeddings(engines: list[Engine]) -> None:
    engine, params = engines[1], SamplingParams(temperature=0, max_tokens=40)
    alone = engine.generate([5, 6, 7], params)
    list(alone)
    engine.kv_cache.clear()
    beside = engine.generate([5, 6, 7], params)
    for _ in beside:
        engine.embed([[1, 2, 3], [9] * 80])
    assert beside.ids == alone.ids


ENGLISH = (Path(__file__).parent / "english.txt").read_text(encoding="utf-8")
SENTENCES = ["The cat sat on the mat.", "A kitten rested on the rug.", "Stocks fell sharply.", ENGLISH[:1500]]


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_vectors_are_those_of_llama_cpp(smollm2_path: Path, pooling: str) -> None:
    with Engine.load(smollm2_path, n_ctx=1024) as engine:
        ids = [engine.tokenizer.encode(text) for text in SENTENCES]
        ours = engine.embed(ids, pooling)
    theirs = embed_with_llama_cpp(smollm2_path, ids, pooling)
    cosines = (ours * theirs).sum(axis=1) / np.linalg.norm(theirs, axis=1)
    print(pooling, cosines)
    assert cosines.min() >= 0.999


def embed_with_llama_cpp(path: Path, ids: list[list[int]], pooling: str) -> np.ndarray:
    params = xllamacpp.CommonParams()
    params.model.path, params.embedding, params.warmup = str(path), True, False
    params.n_ctx = params.n_batch = params.n_ubatch = 1024
    params.n_parallel = params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.pooling_type = getattr(xllamacpp.llama_pooling_type, f"LLAMA_POOLING_TYPE_{pooling.upper()}")
    server = xllamacpp.Server(params)
    headers, body = {"Content-Type": "application/json"}, json.dumps({"input": ids}).encode()
    request = urllib.request.Request(f"{server.listening_address}/v1/embeddings", body, headers)
    with urllib.request.urlopen(request) as response:
        return np.array([row["embedding"] for row in json.load(response)["data"]])
