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

LANES = 16
"""Rows are worked on sixteen values at a time on every processor, so that sums have the same order everywhere."""


def _quantised(s: Emitter, values: list[V]) -> tuple[V, list[V]]:
    """The scale (largest magnitude / 127) and the values over it, rounded to integers."""
    largest = s.absolute(values[0])
    for v in values[1:]:
        largest = s.maximum(largest, s.absolute(v))
    largest = s.reduce(largest, s.maximum)
    zero, one = s.like(largest, 0.0), s.like(largest, 1.0)
    inverse = s.splat(
        s.select_greater(largest, zero, s.like(largest, 127.0), zero) / s.select_greater(largest, zero, largest, one)
    )
    return largest * (1.0 / 127.0), [s.to_i32(s.round_even(v * inverse)) for v in values]


def _store_quants(s: Emitter, address: V, quants: list[V]) -> None:
    for i, q in enumerate(quants):
        s.store(address + LANES * i, s.truncate(q, I8))


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
        _store_quants(s, quants, q)
        total = _sum(s, q[0] + q[1])
        s.store(scalars, scale)
        s.store(scalars + group * 4, scale * s.scalar_to_f32(total))
        s.store(scalars + group * 8, s.like(total, 0) - total)

    @emitted(types.void, INTP, INTP, INTP, INTP, INTP)
    def quantise_256(s, source, quants, scale_address, sums, pairs):
        scale, q = _quantised(s, [s.load_f32(source + 64 * i) for i in range(16)])
        _store_quants(s, quants, q)
        s.store(scale_address, scale)
        sixteenths = [_sum(s, v) for v in q]
        for i, total in enumerate(sixteenths):
            s.store(sums + 4 * i, s.like(total, 0) - total)
        eighths = [sixteenths[2 * i] + sixteenths[2 * i + 1] for i in range(8)]
        for i, j in enumerate((0, 2, 1, 3, 4, 6, 5, 7)):
            s.store(pairs + 2 * i, s.truncate(eighths[j], simd.I16))

    @device
    def quantise_row(row, n, first, last, token, n_tokens, q32, q256, f32):
        column, group = find(token, n_tokens)
        t = token - column
        if q32:
            base = q32 + column * (n // 32) * q32_bytes
            for b in range(first // 32, last // 32):
                record = base + b * group * q32_bytes
                quantise_32(row + 128 * b, record + 32 * t, record + 32 * group + 4 * t, group)
        if q256:
            base = q256 + column * (n // 256) * q256_bytes
            for b in range(first // 256, last // 256):
                record = base + b * group * q256_bytes
                scales = record + 256 * group
                sums = scales + 4 * group
                quantise_256(
                    row + 1024 * b, record + 256 * t, scales + 4 * t, sums + 64 * t, sums + 64 * group + 16 * t
                )
        if f32:
            base = f32 + column * n * 4
            for i in range(first, last):
                store_f32(base + 4 * (i * group + t), load_f32(row + 4 * i))

    return quantise_row
