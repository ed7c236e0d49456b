"""Keys and values of fewer bits: what is refused, what they cost, and what they change."""

import dataclasses
import importlib
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import pytest
from random_models import write_random_model

from llmrun.cpu_kernels.kv_types import KV_TYPES
from llmrun.quant_formats.errors import UsageError
from llmrun.quant_formats.gguf_file import GGUFFile
from llmrun.runner.config import ModelConfig
from llmrun.runner.kv_type import kv_type_named


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    with GGUFFile.open(write_random_model(tmp_path_factory.mktemp("model") / "m.gguf", "llama", "F16")) as gguf:
        return ModelConfig.from_gguf(gguf)


def test_unknown_types_are_refused(config: ModelConfig) -> None:
    with pytest.raises(UsageError, match="unknown type of keys and values 'q3'; choose one of f16, q8_0, q4_0"):
        kv_type_named("q3", config)


def test_heads_that_blocks_do_not_divide_are_refused(config: ModelConfig) -> None:
    odd = dataclasses.replace(config, head_dim=80)
    assert kv_type_named(None, odd) is KV_TYPES["f16"]
    for name in ("q8_0", "q4_0"):
        with pytest.raises(UsageError, match=r"heads of a multiple of 32 values, and this model's have 80; use f16"):
            kv_type_named(name, odd)


def test_memory(config: ModelConfig) -> None:
    """Half of f16's and a quarter, but for the scales."""
    halfs = config.kv_bytes_per_token(KV_TYPES["f16"])
    shares = {name: Fraction(config.kv_bytes_per_token(kv), halfs) for name, kv in KV_TYPES.items()}
    assert shares == {"f16": 1, "q8_0": Fraction(17, 32), "q4_0": Fraction(9, 32)}


@dataclass(frozen=True)
class Bar:
    """The most that a type may change."""

    perplexity: float
    error: float  # the standard error that the comparison must not exceed to count
    divergence: float


BARS = {
    "q8_0": Bar(0.001, 0.0025, 0.004),
    "q4_0": Bar(0.01, 0.004, 0.015),
}


def test_quality(smollm2_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On 4,096 positions of real text, token by token against f16.

    All that follows a change is rounded differently, which alone gives a divergence of 2e-3 and most of the standard
    error: so a bar is missed where perplexity is above it by more than chance allows.
    """
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    kv_quality = importlib.import_module("kv_quality")
    with GGUFFile.open(smollm2_path) as gguf:
        changes = kv_quality.changes(gguf, list(BARS), n_windows=4, length=1024, n_threads=2)
    for name, change in changes.items():
        print(f"{name}: {change.perplexity:+.3%} with an error of {change.error:.3%}, KL {change.divergence:.1e}")
    for name, bar in BARS.items():
        change = changes[name]
        assert change.error <= bar.error, name
        assert change.perplexity <= bar.perplexity + 2 * change.error, name
        assert change.divergence <= bar.divergence, name
