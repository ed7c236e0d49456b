"""Combining the partial results of attention: those of the runs of a column, in the order of the runs."""

from collections.abc import Callable

import numpy as np
from numba import types

from llmrun.cpu_kernels import simd
from llmrun.cpu_kernels.attention_softmax import LEAST_EXPONENT, power_of_two
from llmrun.cpu_kernels.hadamard import turned
from llmrun.cpu_kernels.isa import Isa
from llmrun.cpu_kernels.jit import device
from llmrun.cpu_kernels.memory import store_f32
from llmrun.cpu_kernels.step import column_bytes
from llmrun.cpu_kernels.vector import FLOAT, INTP, f32_tile

_MOST_VECTORS = 8  # of 16 values, in registers at once


def build_clear(isa: Isa, head_dim: int) -> Callable:
    """`clear(result)`: the partial result of no block."""
    emitted = simd.emitter_for(isa, 16)
    least = np.float32(LEAST_EXPONENT)

    @emitted(types.void, INTP)
    def zero(s, result):
        for at in range(0, column_bytes(head_dim), 64):
            s.store(result + at, s.zero_f32())

    @device
    def clear(result):
        zero(result)
        store_f32(result, least)

    return clear


def build_merge_runs(isa: Isa, head_dim: int) -> Callable:
    """`merge_runs(total, part, stride, n)`: adds n partial results, `stride` bytes apart, to a total, one by one."""
    emitted = simd.emitter_for(isa, 16)
    n_vectors = head_dim // 16
    width = max(w for w in range(1, _MOST_VECTORS + 1) if n_vectors % w == 0)
    tile = f32_tile(16, 2 + width)  # exponent and sum in every lane, then values

    @emitted(tile, INTP, INTP)
    def load(s, total, at):
        head = [s.broadcast_f32(total), s.broadcast_f32(total + 4)]
        return head + [s.load_f32(total + at + 64 * (i + 1)) for i in range(width)]

    @emitted(tile, tile, INTP, INTP)
    def add(s, acc, part, at):
        exponent, other = acc[0], s.broadcast_f32(part)
        larger = s.maximum(exponent, other)
        a, b = power_of_two(s, exponent - larger), power_of_two(s, other - larger)
        added = [s.broadcast_f32(part + 4)] + [s.load_f32(part + at + 64 * (i + 1)) for i in range(width)]
        return [larger] + [s.fma(y, b, x * a) for x, y in zip(acc[1:], added, strict=True)]

    @emitted(types.void, INTP, INTP, tile)
    def store_values(s, total, at, acc):
        for i in range(width):
            s.store(total + at + 64 * (i + 1), acc[2 + i])

    @emitted(types.void, INTP, tile)
    def store_head(s, total, acc):
        for i in range(2):
            s.store(total + 4 * i, s.first_lane(acc[i]))

    @device
    def merge_runs(total, part, stride, n):
        acc = load(total, 0)
        for i in range(n_vectors // width):
            at = 64 * width * i
            acc = load(total, at)
            for run in range(n):
                acc = add(acc, part + run * stride, at)
            store_values(total, at, acc)
        store_head(total, acc)

    return merge_runs


def build_finish(isa: Isa, head_dim: int, *, turned_values: bool) -> Callable:
    """`finish(total, out)`: the weighted mean, values over sum; values that were turned are turned back."""
    emitted = simd.emitter_for(isa, 16)

    @emitted(types.void, INTP, INTP)
    def finish(s, total, out):
        inverse = s.constant(FLOAT, 1 / 32 if turned_values else 1.0, 16) / s.broadcast_f32(total + 4)
        means = [s.load_f32(total + (64 + 64 * i)) * inverse for i in range(head_dim // 16)]
        if turned_values:
            means = [v for i in range(0, len(means), 2) for v in turned(s, means[i : i + 2])]
        for i, v in enumerate(means):
            s.store(out + 64 * i, v)

    return finish
