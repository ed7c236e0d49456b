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

    quants: np.ndarray  # int32 (..., block), 256 x high byte + low byte
    scales: np.ndarray  # float32
    scaled_sums: np.ndarray | None  # float32; q32
    negative_sums: np.ndarray  # int32; q32: of the block; q256: (..., 16) of sixteen values
    sums: np.ndarray | None  # float32 (..., 8) of 32 values; q256


def decode_q32(data: np.ndarray, n_tokens: int, n_blocks: int, widest: int) -> Quantised:
    """Read 76 bytes a block and column."""
    parts = []
    for g in group_widths(n_tokens, widest):
        record = np.dtype(
            [
                ("high", "i1", (g, 32)),
                ("low", "i1", (g, 32)),
                ("scale", "<f4", g),
                ("sum", "<f4", g),
                ("minus", "<i4", g),
            ]
        )
        size = n_blocks * record.itemsize
        r, data = data[:size].view(record), data[size:]
        parts.append([r[name].swapaxes(0, 1) for name in ("high", "low", "scale", "sum", "minus")])
    assert data.size == 0
    high, low, scales, sums, minus = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return Quantised(256 * high.astype(np.int32) + low, scales, sums, minus, None)


def decode_q256(data: np.ndarray, n_tokens: int, n_blocks: int, widest: int) -> Quantised:
    """Read 612 bytes a block and column."""
    parts = []
    for g in group_widths(n_tokens, widest):
        record = np.dtype(
            [
                ("high", "i1", (g, 256)), ("low", "i1", (g, 256)), ("scale", "<f4", g), ("minus", "<i4", (g, 16)),
                ("sums", "<f4", (g, 8)),
            ]
        )  # fmt: skip
        size = n_blocks * record.itemsize
        r, data = data[:size].view(record), data[size:]
        parts.append([r[name].swapaxes(0, 1) for name in ("high", "low", "scale", "minus", "sums")])
    assert data.size == 0
    high, low, scales, minus, sums = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return Quantised(256 * high.astype(np.int32) + low, scales, None, minus, sums)


def decode_f32(data: np.ndarray, n_tokens: int, n: int, widest: int) -> np.ndarray:
    """Read 4 bytes a value: (n_tokens, n) float32."""
    columns, floats = [], data.view(np.float32)
    for g in group_widths(n_tokens, widest):
        columns.append(floats[: n * g].reshape(n, g).T)
        floats = floats[n * g :]
    assert floats.size == 0
    return np.concatenate(columns)
