"""Rows of floats into the records of `activations.py`."""

from collections.abc import Callable

from numba import types

from llmrun.cpu_kernels import simd
from llmrun.cpu_kernels.activations import Q16
from llmrun.cpu_kernels.group import group_functions
from llmrun.cpu_kernels.isa import Isa
from llmrun.cpu_kernels.jit import device
from llmrun.cpu_kernels.memory import load_f32, store_f32
from llmrun.cpu_kernels.simd import Emitter
from llmrun.cpu_kernels.vector import FLOAT, I8, I32, INTP, WHOLE, WHOLE_BITS, V

LANES = 16
"""Rows are worked on sixteen values at a time on every processor, so that sums have the same order everywhere."""


def _quantise(s: Emitter, row: V, record: V, record_bytes: V, t: V, n: int) -> None:
    """Write the records of n values of one column, 32 or 256."""
    vectors = [s.load_f32(row + 4 * LANES * i) for i in range(n // LANES)]
    lanes = range(0, LANES, LANES // len(vectors))  # where `reduce_each` leaves the result of each vector
    largest = s.reduce_each([s.absolute(v) for v in vectors], s.maximum)
    zero, one = s.like(largest, 0.0), s.like(largest, 1.0)
    inverse = s.select_greater(largest, zero, s.like(largest, 127.0), zero)
    inverse = inverse / s.select_greater(largest, zero, largest, one)
    scales = s.bitcast(s.bitcast(largest * (1.0 / 127.0), I32, LANES) & -4, FLOAT, LANES)
    quants = [s.to_i32(s.round_even(v * s.lane(inverse, i))) for v, i in zip(vectors, lanes, strict=True)]
    counts = s.reduce_each(quants, lambda x, y: x + y)
    starts, ends, sums = s.like(counts, WHOLE_BITS) - (counts << 7), scales * -WHOLE, scales * s.to_f32(counts)
    record = record + t * Q16.block_bytes
    for i in range(n // 32):
        first, second = lanes[2 * i], lanes[2 * i + 1]
        s.store(record, s.truncate(quants[2 * i], I8))
        s.store(record + 16, s.truncate(quants[2 * i + 1], I8))
        s.store(record + 32, s.shuffle(scales, scales, [first, second]))
        s.store(record + 48, s.shuffle(starts, starts, [first, second]))
        s.store(record + 56, s.shuffle(ends, ends, [first, second]))
        s.store(record + 40, s.shuffle(sums, sums, [first]) + s.shuffle(sums, sums, [second]))
        record = record + record_bytes


def build_quantise_row(isa: Isa) -> Callable:
    """`quantise_row(row, n, first, last, token, n_tokens, q16, f32)`.

    It writes the values [first, last) of one row of n floats, the activations of token `token` of `n_tokens`, into
    each layout whose address is not 0. `first` and `last` are multiples of 32, or the row's end.
    """
    emitted = simd.emitter_for(isa, LANES)
    _, find = group_functions(isa)
    q16_bytes = Q16.block_bytes

    @emitted(types.void, INTP, INTP, INTP, INTP)
    def quantise_32(s, row, record, record_bytes, t):
        _quantise(s, row, record, record_bytes, t, 32)

    @emitted(types.void, INTP, INTP, INTP, INTP)
    def quantise_256(s, row, record, record_bytes, t):
        _quantise(s, row, record, record_bytes, t, 256)

    @device
    def quantise_row(row, n, first, last, token, n_tokens, q16, f32):
        column, group = find(token, n_tokens)
        t = token - column
        if q16:
            base, record_bytes = q16 + column * (n // 32) * q16_bytes, group * q16_bytes
            wide = first // 32 + (last - first) // 256 * 8
            for b in range(first // 32, wide, 8):
                quantise_256(row + 128 * b, base + b * record_bytes, record_bytes, t)
            for b in range(wide, last // 32):
                quantise_32(row + 128 * b, base + b * record_bytes, record_bytes, t)
        if f32:
            base = f32 + column * n * 4
            for i in range(first, last):
                store_f32(base + 4 * (i * group + t), load_f32(row + 4 * i))

    return quantise_row
