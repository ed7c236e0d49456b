"""Keys and values as halfs.

Keys lie sixteen tokens side by side, so that a vector of scores needs no sum across lanes; values lie token by token:

    keys    (n_kv_heads, BLOCK_TOKENS / 16, head_dim, 16)
    values  (n_kv_heads, BLOCK_TOKENS, head_dim)
"""

from collections.abc import Callable

from numba import types

from llmrun.cpu_kernels import simd
from llmrun.cpu_kernels.isa import Isa
from llmrun.cpu_kernels.jit import device
from llmrun.cpu_kernels.kv_types import KVType
from llmrun.cpu_kernels.memory import load_f32, store_f16
from llmrun.cpu_kernels.step import BLOCK_TOKENS, column_bytes
from llmrun.cpu_kernels.vector import FLOAT, INTP, f32_tile


def build_store(_isa: Isa, _kv: KVType) -> Callable:
    """`store(k, v, keys, values, slot, n)`: n floats each of a key and a value become token `slot` of a block."""

    @device
    def store(k, v, keys, values, slot, n):
        keys += (slot // 16) * n * 32 + slot % 16 * 2
        values += slot * n * 2
        for i in range(n):
            store_f16(keys + 32 * i, load_f32(k + 4 * i))
            store_f16(values + 2 * i, load_f32(v + 4 * i))

    return store


def build_take(isa: Isa, head_dim: int, _kv: KVType) -> Callable:
    """`take(q, column, scale)`: the query of a head, times `scale`, as `scores` reads it."""
    emitted = simd.emitter_for(isa, 16)

    @emitted(types.void, INTP, INTP, types.float32)
    def take(s, q, column, scale):
        for i in range(head_dim // 16):
            s.store(column + 64 * i, s.load_f32(q + 64 * i) * s.splat(scale))

    return take


def build_scores(isa: Isa, head_dim: int, columns: int, _kv: KVType) -> Callable:
    """`scores(q, keys, ahead, out)`: the scores of a block's tokens, 64 floats a column.

    Each is a running sum over the head's dimensions; lane = token. What lies `ahead` bytes further is fetched.
    """
    emitted = simd.emitter_for(isa, 16)
    vectors = 4 if isa.lanes == 16 else 1  # of 16 tokens, in registers at once
    tile = f32_tile(16, columns * vectors)
    at_once = 4

    @emitted(tile)
    def zeros(s):
        return [s.zero_f32()] * (columns * vectors)

    @emitted(tile, tile, INTP, INTP, INTP)
    def step(s, acc, q, keys, ahead):
        acc = list(acc)
        for v in range(vectors):
            for line in range(0, 32 * at_once, 64):
                s.prefetch(keys + ahead + (v * head_dim * 32 + line), 64)
        for d in range(at_once):
            k = [s.load_f16(keys + (v * head_dim * 32 + 32 * d)) for v in range(vectors)]
            for t in range(columns):
                query = s.broadcast_nth(FLOAT, q + t * head_dim * 4, d)
                for v in range(vectors):
                    acc[t * vectors + v] = s.fma(k[v], query, acc[t * vectors + v])
        return acc

    @emitted(types.void, INTP, tile)
    def store(s, scores, acc):
        for t in range(columns):
            for v in range(vectors):
                s.store(scores + (4 * BLOCK_TOKENS * t + 64 * v), acc[t * vectors + v])

    @device
    def scores(q, keys, ahead, out):
        for i in range(4 // vectors):
            acc = zeros()
            for d in range(0, head_dim, at_once):
                acc = step(acc, q + 4 * d, keys + (i * vectors * head_dim + d) * 32, ahead)
            store(out + i * vectors * 64, acc)

    return scores


def build_values(isa: Isa, head_dim: int, columns: int, _kv: KVType) -> Callable:
    """`values(weights, values, ahead, results, n)`: adds a block's first n values, weighted, to each column's result.

    A running sum over the tokens; lane = dimension. What was there is multiplied by the result's factor before.
    """
    most = 4 if isa.lanes == 16 else 1  # vectors of 16 values in registers at once
    slices = [(start, min(most, head_dim // 16 - start)) for start in range(0, head_dim // 16, most)]
    n_slices = sum(1 for _, width in slices if width == most)
    rest = head_dim // 16 - n_slices * most
    part = _build_slice(isa, head_dim, columns, most)
    rest_part = _build_slice(isa, head_dim, columns, rest) if rest else part

    @device
    def values(weights, source, ahead, results, n):
        for i in range(n_slices):
            part(weights, source + i * most * 32, ahead, results, i * most * 64, n)
        if rest:
            end = n_slices * most
            rest_part(weights, source + end * 32, ahead, results, end * 64, n)

    return values


def _build_slice(isa: Isa, head_dim: int, columns: int, vectors: int) -> Callable:
    """16 x `vectors` dimensions of `values`, `at` bytes from the first."""
    emitted = simd.emitter_for(isa, 16)
    tile = f32_tile(16, columns * vectors)
    result_bytes = column_bytes(head_dim)
    at_once = 4

    @emitted(tile, INTP, INTP)
    def begin(s, results, at):
        acc = []
        for t in range(columns):
            factor = s.broadcast_f32(results + (t * result_bytes + 8))
            acc += [s.load_f32(results + at + (t * result_bytes + 64 + 64 * i)) * factor for i in range(vectors)]
        return acc

    def add(s, acc, weights, values):
        v = [s.load_f16(values + 32 * i) for i in range(vectors)]
        for t, weight in enumerate(weights):
            for i in range(vectors):
                acc[t * vectors + i] = s.fma(v[i], weight, acc[t * vectors + i])

    @emitted(tile, tile, INTP, INTP)
    def step(s, acc, weights, values):
        acc = list(acc)
        add(s, acc, [s.broadcast_f32(weights + 4 * BLOCK_TOKENS * t) for t in range(columns)], values)
        return acc

    @emitted(tile, tile, INTP, INTP, INTP)
    def steps(s, acc, weights, values, ahead):
        acc = list(acc)
        for i in range(at_once):
            for line in range(0, 32 * vectors, 64):
                s.prefetch(values + ahead + (2 * head_dim * i + line), 64)
            of_token = [s.broadcast_nth(FLOAT, weights + 4 * BLOCK_TOKENS * t, i) for t in range(columns)]
            add(s, acc, of_token, values + 2 * head_dim * i)
        return acc

    @emitted(types.void, INTP, INTP, tile)
    def store(s, results, at, acc):
        for t in range(columns):
            for i in range(vectors):
                s.store(results + at + (t * result_bytes + 64 + 64 * i), acc[t * vectors + i])

    @device
    def part(weights, source, ahead, results, at, n):
        acc = begin(results, at)
        whole = n // at_once * at_once
        for token in range(0, whole, at_once):
            acc = steps(acc, weights + 4 * token, source + 2 * head_dim * token, ahead)
        for token in range(whole, n):
            acc = step(acc, weights + 4 * token, source + 2 * head_dim * token)
        store(results, at, acc)

    return part
