"""Rows of floats into the records of `activations.py`."""

from collections.abc import Callable

from numba import types

from llmrun.cpu_kernels import simd
from llmrun.cpu_kernels.activations import Q32, Q256
from llmrun.cpu_kernels.group import group_functions
from llmrun.cpu_kernels.isa import Isa
from llmrun.cpu_kernels.jit import device
from llmrun.cpu_kernels.memory import load_f32, store_f32
from llmrun.cpu_kernels.simd import I8, INTP, Emitter, V

_LARGEST = 127.0 * 256.0

LANES = 16
"""Rows are worked on sixteen values at a time on every processor, so that sums have the same order everywhere."""


def _quantised(s: Emitter, values: list[V]) -> tuple[V, list[V]]:
    """The scale (largest magnitude / 32,512) and the values over it, rounded to integers."""
    largest = s.absolute(values[0])
    for v in values[1:]:
        largest = s.maximum(largest, s.absolute(v))
    largest = s.reduce(largest, s.maximum)
    zero, one = s.like(largest, 0.0), s.like(largest, 1.0)
    inverse = s.splat(
        s.select_greater(largest, zero, s.like(largest, _LARGEST), zero) / s.select_greater(largest, zero, largest, one)
    )
    return largest * (1.0 / _LARGEST), [s.to_i32(s.round_even(v * inverse)) for v in values]


def _store_quants(s: Emitter, high_address: V, low_address: V, quants: list[V]) -> list[V]:
    """Split into bytes, high x 256 + low, both in -127..127; returns the values that are left.

    A low byte of -128 becomes -127, because byte products on AVX2 saturate with -128.
    """
    kept = []
    for i, q in enumerate(quants):
        high = (q + 128).arithmetic_shift(8)
        low = s.maximum_i32(q - (high << 8), s.like(q, -127))
        s.store(high_address + LANES * i, s.truncate(high, I8))
        s.store(low_address + LANES * i, s.truncate(low, I8))
        kept.append((high << 8) + low)
    return kept


def _sum(s: Emitter, v: V) -> V:
    return s.reduce(v, lambda a, b: a + b)


def build_quantise_row(isa: Isa) -> Callable:
    """`quantise_row(row, n, first, last, token, n_tokens, q32, q256, f32)`.

    It writes the values [first, last) of one row of n floats, the activations of token `token` of `n_tokens`, into
    each layout whose address is not 0. `first` and `last` are multiples of 256, or the row's end.
    """
    emitted = simd.emitter_for(isa, LANES)
    _, find = group_functions(isa)
    q32_bytes, q256_bytes = Q32.block_bytes, Q256.block_bytes

    @emitted(types.void, INTP, INTP, INTP, INTP)
    def quantise_32(s, source, quants, scalars, group):
        """Record of one block: its quants, and its scale, scaled sum and minus sum, 4 x group bytes apart."""
        scale, q = _quantised(s, [s.load_f32(source + 64 * i) for i in range(2)])
        q = _store_quants(s, quants, quants + group * 32, q)
        total = _sum(s, q[0] + q[1])
        s.store(scalars, scale)
        s.store(scalars + group * 4, scale * s.scalar_to_f32(total))
        s.store(scalars + group * 8, s.like(total, 0) - total)

    @emitted(types.void, INTP, INTP, INTP, INTP, INTP, INTP)
    def quantise_256(s, source, high, low, scale_address, negative_sums, sums):
        scale, q = _quantised(s, [s.load_f32(source + 64 * i) for i in range(16)])
        q = _store_quants(s, high, low, q)
        s.store(scale_address, scale)
        sixteenths = [_sum(s, v) for v in q]
        for i, total in enumerate(sixteenths):
            s.store(negative_sums + 4 * i, s.like(total, 0) - total)
        for i in range(8):
            s.store(sums + 4 * i, s.scalar_to_f32(sixteenths[2 * i] + sixteenths[2 * i + 1]))

    @device
    def quantise_row(row, n, first, last, token, n_tokens, q32, q256, f32):
        column, group = find(token, n_tokens)
        t = token - column
        if q32:
            base = q32 + column * (n // 32) * q32_bytes
            for b in range(first // 32, last // 32):
                record = base + b * group * q32_bytes
                quantise_32(row + 128 * b, record + 32 * t, record + 64 * group + 4 * t, group)
        if q256:
            base = q256 + column * (n // 256) * q256_bytes
            for b in range(first // 256, last // 256):
                record = base + b * group * q256_bytes
                high, scales = record + 256 * t, record + 512 * group
                negative_sums = scales + 4 * group
                sums = negative_sums + 64 * group + 32 * t
                quantise_256(row + 1024 * b, high, high + 256 * group, scales + 4 * t, negative_sums + 64 * t, sums)
        if f32:
            base = f32 + column * n * 4
            for i in range(first, last):
                store_f32(base + 4 * (i * group + t), load_f32(row + 4 * i))

    return quantise_row
