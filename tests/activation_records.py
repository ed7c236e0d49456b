"""The layouts of `cpu_kernels.activations`, read back with numpy."""

from dataclasses import dataclass

import numpy as np


def group_widths(n_tokens: int, widest: int) -> list[int]:
    """The columns of each group: the widest power of two that still fits."""
    widths = []
    while n_tokens:
        widths.append(min(widest, 1 << (n_tokens.bit_length() - 1)))
        n_tokens -= widths[-1]
    return widths


@dataclass(frozen=True)
class Quantised:
    """All that the records of some tokens hold; the arrays begin with (n_tokens, n_blocks)."""

    quants: np.ndarray  # int8 (..., block)
    scales: np.ndarray  # float32
    scaled_sums: np.ndarray | None  # float32; q32
    negative_sums: np.ndarray  # int32; q32: of the block; q256: (..., 16) of sixteen values
    pair_sums: np.ndarray | None  # int16 (..., 8) of 32 values, in the order of the values; q256


def decode_q32(data: np.ndarray, n_tokens: int, n_blocks: int, widest: int) -> Quantised:
    """Read 44 bytes a block and column."""
    parts = []
    for g in group_widths(n_tokens, widest):
        record = np.dtype([("quants", "i1", (g, 32)), ("scale", "<f4", g), ("sum", "<f4", g), ("minus", "<i4", g)])
        size = n_blocks * record.itemsize
        r, data = data[:size].view(record), data[size:]
        parts.append([r[name].swapaxes(0, 1) for name in ("quants", "scale", "sum", "minus")])
    assert data.size == 0
    quants, scales, sums, minus = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return Quantised(quants, scales, sums, minus, None)


def decode_q256(data: np.ndarray, n_tokens: int, n_blocks: int, widest: int) -> Quantised:
    """Read 340 bytes a block and column."""
    parts = []
    for g in group_widths(n_tokens, widest):
        record = np.dtype(
            [("quants", "i1", (g, 256)), ("scale", "<f4", g), ("minus", "<i4", (g, 16)), ("pairs", "<i2", (g, 8))]
        )
        size = n_blocks * record.itemsize
        r, data = data[:size].view(record), data[size:]
        parts.append([r[name].swapaxes(0, 1) for name in ("quants", "scale", "minus", "pairs")])
    assert data.size == 0
    quants, scales, minus, pairs = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    in_order = np.empty_like(pairs)
    in_order[..., [0, 2, 1, 3, 4, 6, 5, 7]] = pairs
    return Quantised(quants, scales, None, minus, in_order)


def decode_f32(data: np.ndarray, n_tokens: int, n: int, widest: int) -> np.ndarray:
    """Read 4 bytes a value: (n_tokens, n) float32."""
    columns, floats = [], data.view(np.float32)
    for g in group_widths(n_tokens, widest):
        columns.append(floats[: n * g].reshape(n, g).T)
        floats = floats[n * g :]
    assert floats.size == 0
    return np.concatenate(columns)
