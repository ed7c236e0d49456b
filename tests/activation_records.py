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

    quants: np.ndarray  # int8 (..., 32)
    scales: np.ndarray  # float32 (..., 2)
    starts: np.ndarray  # int32 (..., 2)
    ends: np.ndarray  # float32 (..., 2)
    sums: np.ndarray  # float32


_RECORD = np.dtype(
    [
        ("quants", "i1", 32), ("scales", "<f4", 2), ("sums", "<f4"), ("unused", "<i4"), ("starts", "<i4", 2),
        ("ends", "<f4", 2),
    ]
)  # fmt: skip


def decode_q16(data: np.ndarray, n_tokens: int, n_blocks: int, widest: int) -> Quantised:
    """Read 64 bytes a block and column."""
    parts = []
    for g in group_widths(n_tokens, widest):
        size = n_blocks * g * _RECORD.itemsize
        r, data = data[:size].view(_RECORD).reshape(n_blocks, g), data[size:]
        parts.append([r[name].swapaxes(0, 1) for name in ("quants", "scales", "starts", "ends", "sums")])
    assert data.size == 0
    return Quantised(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def decode_f32(data: np.ndarray, n_tokens: int, n: int, widest: int) -> np.ndarray:
    """Read 4 bytes a value: (n_tokens, n) float32."""
    columns, floats = [], data.view(np.float32)
    for g in group_widths(n_tokens, widest):
        columns.append(floats[: n * g].reshape(n, g).T)
        floats = floats[n * g :]
    assert floats.size == 0
    return np.concatenate(columns)
