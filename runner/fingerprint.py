"""Tells keys and values apart that were computed by different models, or in different ways."""

import dataclasses
import hashlib
from collections.abc import Mapping

import numpy as np

from llmrun.cpu_kernels.isa import Isa
from llmrun.cpu_kernels.kv_types import BLOCK_TOKENS, KVType
from llmrun.quant_formats.tensor import Tensor
from llmrun.runner.config import ModelConfig

KV_VERSION = 2
"""To be raised with every change to the layout of keys and values, or to the arithmetic that they come from."""

SAMPLE_BYTES = 4096
"""Bytes that are looked at in the beginning, the middle and the end of a tensor."""


def fingerprint(config: ModelConfig, tensors: Mapping[str, Tensor], kv: KVType, isa: Isa) -> str:
    """A SHA-256, in hexadecimal digits, over all that keys and values depend on besides the ids.

    That is the architecture with its numbers, the tensors, the type of keys and values, and how they are computed. Of
    large tensors a sample is taken, which takes milliseconds and differs between any two models that were not made to
    be confused. The instruction sets compute the same bits, except the portable one, which does not fuse multiply and
    add.
    """
    without = ("name", "n_ctx_train", "is_causal", "pooling")
    numbers = {k: v for k, v in dataclasses.asdict(config).items() if k not in without}
    arithmetic = "portable" if isa.name == "portable" else "fused"
    digest = hashlib.sha256(repr((KV_VERSION, BLOCK_TOKENS, kv, arithmetic, numbers)).encode())
    for tensor in tensors.values():
        digest.update(repr((tensor.name, tensor.shape, tensor.format.name)).encode())
        digest.update(_sample(tensor.data))
    return digest.hexdigest()


def _sample(data: np.ndarray) -> bytes:
    if data.size <= 3 * SAMPLE_BYTES:
        return data.tobytes()
    starts = 0, (data.size - SAMPLE_BYTES) // 2, data.size - SAMPLE_BYTES
    return b"".join(data[start : start + SAMPLE_BYTES].tobytes() for start in starts)
