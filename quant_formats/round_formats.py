"""Formats of 32 weights that share one scale, and in the `_1` formats one minimum.

A weight is `d * q` or `d * q + m`, where q is rounded to 4, 5 or 8 bits. Byte j of `qs` holds the low 4 bits of
weight j in its lower half and those of weight j + 16 in its upper half; bit j of `qh` is the fifth bit of weight j.

Source: `block_q4_0` to `block_q8_0` in ggml-common.h.
"""

import numpy as np
from numpy.typing import NDArray

from llmrun.quant_formats.block_format import BlockFormat

BLOCK_SIZE = 32


def _scale(blocks: np.ndarray, field: str) -> NDArray[np.float32]:
    """(n_blocks, 1) float32."""
    scale: NDArray[np.float32] = blocks[field].astype(np.float32)
    return scale


def _low_bits(blocks: np.ndarray) -> NDArray[np.uint8]:
    """The low 4 bits of every weight. (n_blocks, 32) uint8."""
    return np.concatenate([blocks["qs"] & 15, blocks["qs"] >> 4], axis=1)


def _five_bits(blocks: np.ndarray) -> NDArray[np.integer]:
    """(n_blocks, 32) uint8, 0 to 31."""
    return _low_bits(blocks) | np.unpackbits(blocks["qh"], axis=1, bitorder="little") << 4


def _unpack_q4_0(blocks: np.ndarray) -> np.ndarray:
    return _scale(blocks, "d") * (_low_bits(blocks).astype(np.float32) - 8)


def _unpack_q4_1(blocks: np.ndarray) -> np.ndarray:
    return _scale(blocks, "d") * _low_bits(blocks).astype(np.float32) + _scale(blocks, "m")


def _unpack_q5_0(blocks: np.ndarray) -> np.ndarray:
    return _scale(blocks, "d") * (_five_bits(blocks).astype(np.float32) - 16)


def _unpack_q5_1(blocks: np.ndarray) -> np.ndarray:
    return _scale(blocks, "d") * _five_bits(blocks).astype(np.float32) + _scale(blocks, "m")


def _unpack_q8_0(blocks: np.ndarray) -> np.ndarray:
    return _scale(blocks, "d") * blocks["qs"].astype(np.float32)


_D, _M, _QH, _NIBBLES = ("d", "<f2", (1,)), ("m", "<f2", (1,)), ("qh", "u1", (4,)), ("qs", "u1", (16,))

Q4_0 = BlockFormat("Q4_0", 2, BLOCK_SIZE, np.dtype([_D, _NIBBLES]), _unpack_q4_0)
Q4_1 = BlockFormat("Q4_1", 3, BLOCK_SIZE, np.dtype([_D, _M, _NIBBLES]), _unpack_q4_1)
Q5_0 = BlockFormat("Q5_0", 6, BLOCK_SIZE, np.dtype([_D, _QH, _NIBBLES]), _unpack_q5_0)
Q5_1 = BlockFormat("Q5_1", 7, BLOCK_SIZE, np.dtype([_D, _M, _QH, _NIBBLES]), _unpack_q5_1)
Q8_0 = BlockFormat("Q8_0", 8, BLOCK_SIZE, np.dtype([_D, ("qs", "i1", (32,))]), _unpack_q8_0)

ROUND_FORMATS = (Q4_0, Q4_1, Q5_0, Q5_1, Q8_0)
