"""Keys and values as bytes: what is refused, what they cost, and what they change."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from random_models import write_random_model

from llmrun.cpu_kernels.kv_types import KV_TYPES
from llmrun.quant_formats.errors import UsageError
from llmrun.quant_formats.gguf_file import GGUFFile
from llmrun.runner.config import ModelConfig
from llmrun.runner.kv_cache import blocks_for
from llmrun.runner.kv_type import kv_type_named
from llmrun.runner.loader import load_model
from llmrun.runner.model import Model
from llmrun.runner.prompt_logits import prompt_logits
from llmrun.runner.tokenizer import Tokenizer

N_POSITIONS = 1536
TEXT = Path(__file__).parent / "english.txt"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    with GGUFFile.open(write_random_model(tmp_path_factory.mktemp("model") / "m.gguf", "llama", "F16")) as gguf:
        return ModelConfig.from_gguf(gguf)


def test_unknown_types_are_refused(config: ModelConfig) -> None:
    with pytest.raises(UsageError, match="unknown type of keys and values 'q3'; choose one of f16, q8_0"):
        kv_type_named("q3", config)


def test_heads_that_blocks_do_not_divide_are_refused(config: ModelConfig) -> None:
    odd = dataclasses.replace(config, head_dim=80)
    assert kv_type_named(None, odd) is KV_TYPES["f16"]
    with pytest.raises(UsageError, match=r"heads of a multiple of 32 values, and this model's have 80; use f16"):
        kv_type_named("q8_0", odd)


def test_bytes_take_little_more_than_half(config: ModelConfig) -> None:
    halfs, in_bytes = (config.kv_bytes_per_token(kv) for kv in KV_TYPES.values())
    assert in_bytes * 32 == halfs * 17


def test_perplexity(smollm2_path: Path) -> None:
    """On real text, within what chance allows: the two differ in the rounding of everything that follows."""
    losses = []
    with GGUFFile.open(smollm2_path) as gguf:
        ids = Tokenizer.from_gguf(gguf.metadata).encode(TEXT.read_text(encoding="utf-8"))[: N_POSITIONS + 1]
        for kv_type in KV_TYPES:
            model = load_model(gguf, kv_type=kv_type)
            model.allocate_kv(blocks_for(len(ids)))
            losses.append(loss_of(model, ids))
            model.close()
    halfs, in_bytes = losses
    print(f"perplexity {np.exp(halfs.mean()):.4f}, as bytes {np.exp((in_bytes - halfs).mean()) - 1:+.3%}")
    deviation = (in_bytes - halfs).std() / np.sqrt(N_POSITIONS)
    assert abs((in_bytes - halfs).mean()) <= max(0.001, 2 * deviation)
    assert deviation <= 0.002


def loss_of(model: Model, ids: list[int]) -> np.ndarray:
    """Minus the logarithm of the probability of each next id."""
    losses = []
    for chunk in prompt_logits(model, ids[:-1]):
        wide = chunk.astype(np.float64)
        largest = wide.max(axis=-1)
        total = largest + np.log(np.exp(wide - largest[:, None]).sum(axis=-1))
        targets = ids[len(losses) + 1 :][: len(chunk)]
        losses += (total - wide[np.arange(len(chunk)), targets]).tolist()
    return np.array(losses)
