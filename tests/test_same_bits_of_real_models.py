"""Same prompt, same logits, to the bit, on real models; see test_same_bits.py."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from kernel_runner import vector_isas
from schedules import (
    N_BLOCKS,
    N_OTHER_TOKENS,
    Schedule,
    check_rows,
    decode_together,
    fingerprints,
    read_in_company,
    schedules,
)

from llmrun.cpu_kernels.isa import choose
from llmrun.quant_formats.gguf_file import GGUFFile
from llmrun.runner import Engine, SamplingParams
from llmrun.runner.batch import Batch
from llmrun.runner.cpu_model import CPUModel
from llmrun.runner.model import Model
from llmrun.runner.prompt_logits import prompt_logits
from llmrun.runner.tokenizer import Tokenizer

N_TOKENS = 560
GREEDY = SamplingParams(temperature=0, max_tokens=20)


@pytest.fixture(scope="module", params=["smollm2_path", "gemma3_path"])
def path(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module", params=["f16", "q8_0", "q4_0"])
def kv_type(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def texts(path: Path) -> list[np.ndarray]:
    """English in ids: a long piece, and three for company."""
    with GGUFFile.open(path) as gguf:
        text = (Path(__file__).parent / "english.txt").read_text(encoding="utf-8")
        ids = np.array(Tokenizer.from_gguf(gguf.metadata).encode(text))
    starts = [0, N_TOKENS, *(N_TOKENS + np.arange(1, 4) * N_OTHER_TOKENS)]
    return [ids[start:end] for start, end in itertools.pairwise(starts)]


def load(path: Path, kv_type: str, n_threads: int, isa: str | None = None) -> CPUModel:
    with GGUFFile.open(path) as gguf:
        model = CPUModel(gguf, n_threads, isa=isa, kv_type=kv_type)
    model.allocate_kv(2 * N_BLOCKS)
    return model


@pytest.fixture(scope="module")
def models(path: Path, kv_type: str) -> Iterator[dict[int, CPUModel]]:
    """The model on one and on two threads."""
    models = {n_threads: load(path, kv_type, n_threads) for n_threads in (1, 2)}
    yield models
    for model in models.values():
        model.close()


def fingerprints_of(model: Model, text: np.ndarray) -> list[int]:
    return [row for chunk in prompt_logits(model, text.tolist()) for row in fingerprints(chunk)]


@pytest.fixture(scope="module")
def expected(models: dict[int, CPUModel], texts: list[np.ndarray]) -> list[list[int]]:
    """Fingerprints of the logits after every token of each text, read alone on one thread."""
    return [fingerprints_of(models[1], text) for text in texts]


@pytest.mark.parametrize("n_others", [0, 1, 4, 15])
@settings(deadline=None, derandomize=True, max_examples=2, phases=[Phase.generate])
@given(data=st.data())
def test_company_does_not_matter(
    models: dict[int, CPUModel],
    texts: list[np.ndarray],
    expected: list[list[int]],
    n_others: int,
    data: st.DataObject,
) -> None:
    """Nor do chunks, threads and blocks: texts are read among others that come and go."""
    schedule: Schedule = data.draw(schedules(N_TOKENS, len(texts), n_others))
    for reader, found in zip(
        schedule.readers, read_in_company(models[schedule.n_threads], texts, schedule), strict=True
    ):
        check_rows(found, expected[reader.text])


def test_sequences_decoded_together(models: dict[int, CPUModel], texts: list[np.ndarray]) -> None:
    prompts = [texts[i % len(texts)][i : 3 + 4 * i] for i in range(16)]
    alone = [decode_together(models[2], [prompt], 20)[0] for prompt in prompts]
    for n in (2, 5, 16):
        for found, wanted in zip(decode_together(models[2], prompts[:n], 20), alone, strict=False):
            check_rows(found, wanted)


def test_instruction_sets_agree(path: Path, kv_type: str, texts: list[np.ndarray], expected: list[list[int]]) -> None:
    """All that fuse multiply and add do."""
    for isa in set(vector_isas()) - {choose().name}:
        model = load(path, kv_type, 2, isa)
        found = fingerprints_of(model, texts[0][:40])
        model.close()
        check_rows(found, expected[0])


def record(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Fingerprints of all the logits that the engine computes from now on."""
    rows: list[int] = []
    forward = engine.model.forward

    def recording(batch: Batch) -> np.ndarray:
        logits = forward(batch)
        rows.extend(fingerprints(logits))
        return logits

    monkeypatch.setattr(engine.model, "forward", recording)
    return rows


def test_a_second_turn_is_a_new_start(path: Path, kv_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a chat has kept of its first turn, read and answered, against the whole prompt computed at once."""
    with Engine.load(path, n_ctx=512, n_threads=2, n_parallel=2, kv_type=kv_type) as engine:
        chat = engine.chat(params=GREEDY)
        for _ in chat.send("Tell me about the sea, in which there are so many fish."):
            pass
        rows = record(engine, monkeypatch)
        second = chat.send("And what lives in the deepest part of it?")
        for _ in second:
            pass
        in_chat = rows.copy()
        rows.clear()
        engine.kv_cache.clear()
        fresh = engine.generate(second.prompt_ids, GREEDY)
        for _ in fresh:
            pass
        assert fresh.stats.n_cached == 0
        assert second.stats.n_cached > 20
        assert second.ids == fresh.ids
        check_rows(in_chat, rows)
