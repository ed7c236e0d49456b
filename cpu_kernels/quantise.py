"""Rows of floats into the records of `activations.py`."""

from collections.abc import Callable

from numba import types

from llmrun.cpu_kernels import simd
from llmrun.cpu_kernels.activations import Q16
from llmrun.cpu_kernels.group import group_functions
from llmrun.cpu_kernels.isa import Isa
from llmrun.cpu_kernels.jit import device
from llmrun.cpu_kernels.memory import load_f32, store_f32
from llmrun.cpu_kernels.simd import I8, INTP, Emitter, V

LANES = 16
"""Rows are worked on sixteen values at a time on every processor, so that sums have the same order everywhere."""


def _quantised(s: Emitter, v: V) -> tuple[V, V]:
    """Sixteen values as integers in -127..127, and their scale (largest magnitude / 127)."""
    largest = s.reduce(s.absolute(v), s.maximum)
    zero, one = s.like(largest, 0.0), s.like(largest, 1.0)
    inverse = s.select_greater(largest, zero, s.like(largest, 127.0), zero)
    inverse = inverse / s.select_greater(largest, zero, largest, one)
    return s.to_i32(s.round_even(v * s.splat(inverse))), largest * (1.0 / 127.0)


def _quantise_32(s: Emitter, row: V, record: V, t: V, group: V) -> list[V]:
    """Write the record of 32 values of one column; returns the values that the bytes stand for."""
    parts, kept = [], []
    for half in range(2):
        q, scale = _quantised(s, s.load_f32(row + 64 * half))
        s.store(record + t * 32 + 16 * half, s.truncate(q, I8))
        count = s.reduce(q, lambda a, b: a + b)
        s.store(record + group * 32 + t * 8 + 4 * half, scale)
        s.store(record + group * 40 + t * 8 + 4 * half, s.like(count, 0) - (count << 7))
        parts.append(scale * s.scalar_to_f32(count))
        kept.append(s.to_f32(q) * s.splat(scale))
    s.store(record + group * 48 + t * 4, parts[0] + parts[1])
    return kept


def build_quantise_row(isa: Isa) -> Callable:
    """`quantise_row(row, n, first, last, token, n_tokens, q16, f32)`.

    It writes the values [first, last) of one row of n floats, the activations of token `token` of `n_tokens`, into
    each layout whose address is not 0. `first` and `last` are multiples of 32, or the row's end.
    """
    emitted = simd.emitter_for(isa, LANES)
    _, find = group_functions(isa)
    q16_bytes = Q16.block_bytes

    @emitted(types.void, INTP, INTP, INTP, INTP)
    def quantise_32(s, row, record, t, group):
        _quantise_32(s, row, record, t, group)

    @device
    def quantise_row(row, n, first, last, token, n_tokens, q16, f32):
        column, group = find(token, n_tokens)
        t = token - column
        if q16:
            base = q16 + column * (n // 32) * q16_bytes
            for b in range(first // 32, last // 32):
                quantise_32(row + 128 * b, base + b * group * q16_bytes, t, group)
        if f32:
            base = f32 + column * n * 4
            for i in range(first, last):
                store_f32(base + 4 * (i * group + t), load_f32(row + 4 * i))

    return quantise_row


def build_quantise_pair(isa: Isa) -> Callable:
    """`quantise_pair(row, n, token, n_tokens, q16)`: a row as two columns that add up to it, 2 x token and the next.

    The second holds what the rounding of the first left over; the row is overwritten with it.
    """
    emitted = simd.emitter_for(isa, LANES)
    _, find = group_functions(isa)
    q16_bytes = Q16.block_bytes

    @emitted(types.void, INTP, INTP, INTP, INTP)
    def quantise_32(s, row, record, t, group):
        for half, kept in enumerate(_quantise_32(s, row, record, t, group)):
            s.store(row + 64 * half, s.load_f32(row + 64 * half) - kept)
        _quantise_32(s, row, record, t + 1, group)

    @device
    def quantise_pair(row, n, token, n_tokens, q16):
        column, group = find(2 * token, 2 * n_tokens)
        base = q16 + column * (n // 32) * q16_bytes
        for b in range(n // 32):
            quantise_32(row + 128 * b, base + b * group * q16_bytes, 2 * token - column, group)

    return quantise_pair
