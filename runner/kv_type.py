"""Which type of keys and values a model is run with."""

from llmrun.cpu_kernels.kv_types import DEFAULT, KV_TYPES, KVType
from llmrun.quant_formats.errors import UsageError
from llmrun.runner.config import ModelConfig


def kv_type_named(name: str | None, config: ModelConfig) -> KVType:
    """The type of a name, "f16" if there is none; raises UsageError if it does not exist or does not suit the model."""
    kv = KV_TYPES.get(name or DEFAULT)
    if kv is None:
        raise UsageError(f"unknown type of keys and values {name!r}; choose one of {', '.join(KV_TYPES)}")
    if config.head_dim % kv.divisor:
        raise UsageError(
            f"keys and values in {kv.name} need heads of a multiple of {kv.divisor} values, and this model's have "
            f"{config.head_dim}; use {DEFAULT}"
        )
    return kv
