"""Formats that store each weight on its own, as a floating-point number."""

import numpy as np

from llmrun.quant_formats.block_format import BlockFormat


def _unpack_f32(blocks: np.ndarray) -> np.ndarray:
    return blocks["w"]


def _unpack_f16(blocks: np.ndarray) -> np.ndarray:
    return blocks["w"].astype(np.float32)


def _unpack_bf16(blocks: np.ndarray) -> np.ndarray:
    # bfloat16 is the upper half of a float32
    return (blocks["w"].astype(np.uint32) << 16).view(np.float32)


F32 = BlockFormat("F32", 0, 1, np.dtype([("w", "<f4", (1,))]), _unpack_f32)
F16 = BlockFormat("F16", 1, 1, np.dtype([("w", "<f2", (1,))]), _unpack_f16)
BF16 = BlockFormat("BF16", 30, 1, np.dtype([("w", "<u2", (1,))]), _unpack_bf16)

FLOAT_FORMATS = (F32, F16, BF16)
