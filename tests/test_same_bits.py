"""Same prompt, same logits, to the bit: whatever the chunks, the company, the blocks and the number of threads.

On small models with random weights, one for every format; test_same_bits_of_real_models.py has the others.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from kernel_runner import FORMAT_NAMES, vector_isas
from mock_model import ByteTokenizer
from random_models import CONTEXT, N_VOCAB, all_logits, batch, write_random_model
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

from llmrun.cpu_kernels.isa import choose, supported
from llmrun.quant_formats.gguf_file import GGUFFile
from llmrun.runner.cpu_model import MAX_TOKENS, CPUModel
from llmrun.runner.engine import Engine
from llmrun.runner.sampler import SamplingParams

TEXTS = [np.random.default_rng(i).integers(0, N_VOCAB, n) for i, n in enumerate((560, *3 * [N_OTHER_TOKENS]))]
PROMPT = TEXTS[0]
ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma3")
KV_NAMES = ("f16", "q8_0", "q4_0")
MODELS = [(ARCHITECTURES[i % 4], name, KV_NAMES[(i + i // 4) % 3]) for i, name in enumerate(FORMAT_NAMES)]
MODELS.append(("gemma3", "Q4_K", "q8_0"))
"""Every format, and every architecture with every type of keys and values."""


def load(path: Path, n_threads: int, isa: str | None = None) -> CPUModel:
    kv_type = next(name for name in KV_NAMES if name in path.name)
    with GGUFFile.open(path) as gguf:
        return CPUModel(gguf, n_threads, isa=isa, kv_type=kv_type)


@pytest.fixture(scope="module", params=MODELS, ids="-".join)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    architecture, format_name, kv_type = request.param
    n_layers = 7 if architecture == "gemma3" else 2  # so that some layers have a window and one has none
    return write_random_model(
        tmp_path_factory.mktemp("model") / f"model-{kv_type}.gguf", architecture, format_name, n_layers
    )


@pytest.fixture(scope="module")
def models(path: Path) -> Iterator[dict[int, CPUModel]]:
    """The model on one and on two threads."""
    models = {n_threads: load(path, n_threads) for n_threads in (1, 2)}
    for model in models.values():
        model.allocate_kv(2 * N_BLOCKS)
    yield models
    for model in models.values():
        model.close()


@pytest.fixture(scope="module")
def expected(models: dict[int, CPUModel]) -> list[np.ndarray]:
    """The logits after every token of each text, on one thread and in as few passes as possible."""
    logits = [all_logits(models[1], text, chunk=MAX_TOKENS) for text in TEXTS]
    assert all(np.isfinite(rows).all() for rows in logits)
    assert logits[0].std(axis=0).mean() > 0.2 * logits[0].std(), "the logits hardly depend on the tokens"
    return logits


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("chunk", [1, 7, 64, 512])
def test_chunks_do_not_matter(
    models: dict[int, CPUModel], expected: list[np.ndarray], n_threads: int, chunk: int
) -> None:
    logits = all_logits(models[n_threads], PROMPT, chunk=chunk, first_block=chunk % 13)
    np.testing.assert_array_equal(logits.view(np.uint32), expected[0].view(np.uint32))


@pytest.mark.parametrize("n_others", [0, 1, 4, 15])
@settings(deadline=None, derandomize=True, max_examples=5, phases=[Phase.generate])
@given(data=st.data())
def test_company_does_not_matter(
    models: dict[int, CPUModel], expected: list[np.ndarray], n_others: int, data: st.DataObject
) -> None:
    """Nor do chunks, threads and blocks: texts are read among others that come and go."""
    schedule: Schedule = data.draw(schedules(len(PROMPT), len(TEXTS), n_others))
    wanted = [fingerprints(rows) for rows in expected]
    for reader, found in zip(
        schedule.readers, read_in_company(models[schedule.n_threads], TEXTS, schedule), strict=True
    ):
        check_rows(found, wanted[reader.text])


def test_sequences_decoded_together(models: dict[int, CPUModel]) -> None:
    prompts = [TEXTS[i % len(TEXTS)][i : 3 + 4 * i] for i in range(16)]
    alone = [decode_together(models[1], [prompt], 20)[0] for prompt in prompts]
    for n in (2, 5, 16):
        for found, wanted in zip(decode_together(models[2], prompts[:n], 20), alone, strict=False):
            check_rows(found, wanted)


def test_only_the_wanted_logits_are_computed(models: dict[int, CPUModel], expected: list[np.ndarray]) -> None:
    everything = batch((PROMPT[:150], 0, [3, 4, 5]))
    rows = np.array([0, 17, 149], np.int32)
    some = dataclasses.replace(everything, logit_rows=rows)
    np.testing.assert_array_equal(models[2].forward(some), expected[0][rows])
    none = dataclasses.replace(everything, logit_rows=rows[:0])
    assert models[2].forward(none).shape == (0, N_VOCAB)


def test_instruction_sets_agree(path: Path, expected: list[np.ndarray]) -> None:
    for isa in {"avx2", "portable"} & set(supported()) - {choose().name}:
        model = load(path, 2, isa)
        model.allocate_kv(2 * N_BLOCKS)
        logits, wanted = all_logits(model, PROMPT[:40], chunk=33), expected[0][:40]
        model.close()
        if isa in vector_isas():
            np.testing.assert_array_equal(logits.view(np.uint32), wanted.view(np.uint32))
        else:
            assert np.linalg.norm(logits - wanted) <= 2e-2 * np.linalg.norm(wanted)


@pytest.fixture(scope="module")
def engine(path: Path) -> Iterator[Engine]:
    with Engine(load(path, 2), ByteTokenizer(), n_ctx=CONTEXT, n_parallel=4) as engine:  # type: ignore[arg-type]
        yield engine


@settings(deadline=None, derandomize=True, max_examples=8, phases=[Phase.generate])
@given(n_common=st.integers(0, 200), n_new=st.integers(1, 100), n_answer=st.integers(1, 20))
def test_a_kept_beginning_does_not_matter(engine: Engine, n_common: int, n_new: int, n_answer: int) -> None:
    """A prompt whose beginning was computed for another one, by reading or by answering, against a new start."""
    params = SamplingParams(temperature=0, max_tokens=n_answer)
    table = engine.new_table()
    first = engine.submit(PROMPT[: 200 - n_answer].tolist(), params, table)
    list(first)
    prompt = [*first.prompt_ids, *first.ids][:n_common] + TEXTS[1][:n_new].tolist()
    kept = engine.submit(prompt, params, table)
    list(kept)
    engine.kv_cache.clear()
    fresh = engine.generate(prompt, params)
    list(fresh)
    assert kept.stats.n_cached >= min(n_common, 199)
    assert fresh.stats.n_cached == 0
    assert kept.ids == fresh.ids
