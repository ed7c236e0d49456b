"""Same prompt, same logits, to the bit: whatever the chunks, the company, the blocks and the number of threads."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from kernel_runner import vector_isas
from random_models import N_VOCAB, all_logits, batch, write_random_model

from llmrun.cpu_kernels.isa import choose, supported
from llmrun.quant_formats.gguf_file import GGUFFile
from llmrun.runner.cpu_model import CPUModel

PROMPT = np.random.default_rng(3).integers(0, N_VOCAB, 150)
OTHERS = [np.random.default_rng(i).integers(0, N_VOCAB, n) for i, n in enumerate((70, 3, 64))]
MODELS = [("llama", name, "f16") for name in ("F16", "Q4_1", "Q5_0", "Q8_0", "Q4_K", "Q6_K")]
MODELS += [("qwen2", "BF16", "f16"), ("qwen3", "Q4_0", "f16"), ("gemma3", "Q5_K", "f16")]
MODELS += [("llama", "Q4_1", "q8_0"), ("gemma3", "Q8_0", "q8_0")]  # keys and values as bytes


def load(path: Path, n_threads: int, isa: str | None = None) -> CPUModel:
    kv_type = "q8_0" if "q8_0" in path.name else "f16"
    model = CPUModel(GGUFFile.open(path), n_threads, isa=isa, kv_type=kv_type)
    model.allocate_kv(16)
    return model


@pytest.fixture(scope="module", params=MODELS, ids="-".join)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    architecture, format_name, kv_type = request.param
    n_layers = 7 if architecture == "gemma3" else 2  # so that some layers have a window and one has none
    return write_random_model(
        tmp_path_factory.mktemp("model") / f"model-{kv_type}.gguf", architecture, format_name, n_layers
    )


@pytest.fixture(scope="module", params=[1, 2], ids="{} threads".format)
def model(request: pytest.FixtureRequest, path: Path) -> Iterator[CPUModel]:
    model = load(path, request.param)
    yield model
    model.close()


@pytest.fixture(scope="module")
def expected(path: Path) -> np.ndarray:
    """The logits after every token of the prompt, on one thread and in one pass."""
    model = load(path, 1)
    logits = all_logits(model, PROMPT, chunk=len(PROMPT))
    model.close()
    assert np.isfinite(logits).all()
    assert logits.std(axis=0).mean() > 0.2 * logits.std(), "the logits hardly depend on the tokens"
    return logits


@pytest.mark.parametrize("chunk", [1, 7, 64, 150])
def test_chunks_do_not_matter(model: CPUModel, expected: np.ndarray, chunk: int) -> None:
    logits = all_logits(model, PROMPT, chunk=chunk, first_block=chunk % 13)
    np.testing.assert_array_equal(logits, expected)


def test_company_does_not_matter(model: CPUModel, expected: np.ndarray) -> None:
    """The prompt in pieces, among sequences that are read, decoded, or come and go meanwhile."""
    mine, found = [9, 2, 12], []
    theirs = [[0, 1], [5], [15]]
    at = [0, 0, 0]
    for start in range(0, len(PROMPT), 11):
        parts = []
        for i, other in enumerate(OTHERS):
            n = min((1, 3, 20)[i], len(other) - at[i])
            if n:
                parts.append((other[at[i] : at[i] + n], at[i], theirs[i]))
                at[i] += n
        me = start // 11 % (len(parts) + 1)
        parts.insert(me, (PROMPT[start : start + 11], start, mine))
        before = sum(len(tokens) for tokens, _, _ in parts[:me])
        found.append(model.forward(batch(*parts))[before : before + len(parts[me][0])].copy())
    np.testing.assert_array_equal(np.concatenate(found), expected)


def test_only_the_wanted_logits_are_computed(model: CPUModel, expected: np.ndarray) -> None:
    everything = batch((PROMPT, 0, [3, 4, 5]))
    rows = np.array([0, 17, 149], np.int32)
    some = type(everything)(
        everything.tokens, everything.positions, everything.sequence, everything.block_tables, logit_rows=rows
    )
    np.testing.assert_array_equal(model.forward(some), expected[rows])
    none = type(everything)(some.tokens, some.positions, some.sequence, some.block_tables, logit_rows=rows[:0])
    assert model.forward(none).shape == (0, N_VOCAB)


def test_instruction_sets_agree(path: Path, expected: np.ndarray) -> None:
    for isa in {"avx2", "portable"} & set(supported()) - {choose().name}:
        model = load(path, 2, isa)
        logits = all_logits(model, PROMPT[:40], chunk=16)
        model.close()
        if isa in vector_isas():
            np.testing.assert_array_equal(logits, expected[:40])
        else:
            assert np.linalg.norm(logits - expected[:40]) <= 2e-2 * np.linalg.norm(expected[:40])
