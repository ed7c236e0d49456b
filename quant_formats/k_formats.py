"""K-quants: super-blocks of 256 weights, whose 8 or 16 groups have small integer scales under one float scale.

Q4_K and Q5_K: 8 groups of 32, a weight is `d * scale * q - dmin * min`. Byte j of the 32-byte run r of `qs` holds
weight j of group 2r in its lower half and of group 2r + 1 in its upper half; in Q5_K bit g of `qh[j]` is the fifth
bit of weight j of group g.

Q6_K: 16 groups of 16, a weight is `d * scale * (q - 32)`. The block has two halves of 128 weights, seen as 4 rows of
32: the low 4 bits of rows 0 and 2 are in the lower and upper halves of the first 32 bytes of `ql`, those of rows 1
and 3 in the next 32, and bits 2r and 2r + 1 of `qh[j]` are the upper bits of weight j of row r.

Source: `block_q4_K` to `block_q6_K` in ggml-common.h.
"""

import numpy as np

from llmrun.quant_formats.block_format import BlockFormat

BLOCK_SIZE = 256


def unpack_scales(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the 6-bit scales and mins of the 8 groups of Q4_K and Q5_K, each (n_blocks, 8) uint8.

    packed: uint8 (n_blocks, 12). Groups 0 to 3 have their scale in the low 6 bits of bytes 0 to 3 and their min in
    those of bytes 4 to 7. Groups 4 to 7 have the low 4 bits of scale and min in the halves of bytes 8 to 11 and
    their 2 high bits in what is left of the bytes 0 to 3 and 4 to 7.
    """
    first, second, third = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([first & 63, third & 15 | first >> 6 << 4], axis=1)
    mins = np.concatenate([second & 63, third >> 4 | second >> 6 << 4], axis=1)
    return scales, mins


def _four_bits(blocks: np.ndarray) -> np.ndarray:
    """The low 4 bits of every weight of Q4_K and Q5_K. (n_blocks, 8, 32) uint8."""
    runs = blocks["qs"].reshape(-1, 4, 32)
    return np.stack([runs & 15, runs >> 4], axis=2).reshape(-1, 8, 32)


def _scale_and_shift(blocks: np.ndarray, q: np.ndarray) -> np.ndarray:
    """q: uint8 (n_blocks, 8, 32). Returns float32 (n_blocks, 256)."""
    scales, mins = unpack_scales(blocks["scales"])
    scale = blocks["d"].astype(np.float32) * scales.astype(np.float32)
    shift = blocks["dmin"].astype(np.float32) * mins.astype(np.float32)
    return (scale[:, :, None] * q.astype(np.float32) - shift[:, :, None]).reshape(-1, BLOCK_SIZE)


def _unpack_q4_k(blocks: np.ndarray) -> np.ndarray:
    return _scale_and_shift(blocks, _four_bits(blocks))


def _unpack_q5_k(blocks: np.ndarray) -> np.ndarray:
    group = np.arange(8, dtype=np.uint8)[:, None]
    fifth_bits = blocks["qh"][:, None, :] >> group & 1
    return _scale_and_shift(blocks, _four_bits(blocks) | fifth_bits << 4)


def _unpack_q6_k(blocks: np.ndarray) -> np.ndarray:
    low = blocks["ql"].reshape(-1, 2, 2, 32)
    low = np.stack([low & 15, low >> 4], axis=2).reshape(-1, 2, 4, 32)
    row_shift = np.array([0, 2, 4, 6], np.uint8)[:, None]
    high = blocks["qh"].reshape(-1, 2, 1, 32) >> row_shift & 3
    q = (low | high << 4).astype(np.float32) - 32
    scale = blocks["d"].astype(np.float32) * blocks["scales"].astype(np.float32)
    weights: np.ndarray = scale[:, :, None] * q.reshape(-1, 16, 16)
    return weights.reshape(-1, BLOCK_SIZE)


_D, _DMIN, _SCALES, _NIBBLES = ("d", "<f2", (1,)), ("dmin", "<f2", (1,)), ("scales", "u1", (12,)), ("qs", "u1", (128,))
_Q6_K_LAYOUT = [("ql", "u1", (128,)), ("qh", "u1", (64,)), ("scales", "i1", (16,)), _D]

Q4_K = BlockFormat("Q4_K", 12, BLOCK_SIZE, np.dtype([_D, _DMIN, _SCALES, _NIBBLES]), _unpack_q4_k)
Q5_K = BlockFormat("Q5_K", 13, BLOCK_SIZE, np.dtype([_D, _DMIN, _SCALES, ("qh", "u1", (32,)), _NIBBLES]), _unpack_q5_k)
Q6_K = BlockFormat("Q6_K", 14, BLOCK_SIZE, np.dtype(_Q6_K_LAYOUT), _unpack_q6_k)

K_FORMATS = (Q4_K, Q5_K, Q6_K)
