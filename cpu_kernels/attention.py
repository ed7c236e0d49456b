"""Grouped-query attention over the blocks of the KV cache.

The unit is one block of keys and values against up to QUERY_COLUMNS query columns (tokens x heads of a group), so a
block is read once for all of them. Each block gives a partial result (largest score, sum, weighted values); partial
results are merged in the order of the blocks. Where there are few query tiles, the blocks are spread over the threads
and merged afterwards, else each thread merges as it goes: the same operations in the same order, so the same bits.
"""

from collections.abc import Callable

import numpy as np
from numba import types

from llmrun.cpu_kernels import simd
from llmrun.cpu_kernels.fields import ATTENTION
from llmrun.cpu_kernels.isa import Isa
from llmrun.cpu_kernels.jit import device
from llmrun.cpu_kernels.memory import load_f32, load_i32, load_word, store_f32
from llmrun.cpu_kernels.simd import FLOAT, I32, INTP
from llmrun.cpu_kernels.step import BLOCK_TOKENS, MAX_COLUMNS, column_bytes

_TILE = 4  # columns in registers at once
_LOWEST = -1e30  # a masked score; well below the least maximum, so that its weight is exactly zero
_LEAST_MAXIMUM = -1e29


def build_attention(isa: Isa, head_dim: int) -> Callable:
    """The kernel for one head size, a multiple of 16."""
    block_partials, gather_queries = _build_block_partials(isa, head_dim), _build_gather(head_dim)
    merge, clear, finish = _build_merge(isa, head_dim)
    result_bytes, q_bytes = column_bytes(head_dim), 4 * head_dim

    @device
    def attend_at_once(op, where, q, results, totals, weights):
        """All blocks of one tile and head, merged as they come."""
        token, n_tokens, kv_head, _, begin, end = where
        group = load_word(op + ATTENTION.group)
        gather_queries(op, token, n_tokens, kv_head, q)
        for c in range(n_tokens * group):
            clear(totals + c * result_bytes)
        for block in range(begin, end):
            block_partials(op, where, block, q, weights, results)
            for c in range(n_tokens * group):
                merge(totals + c * result_bytes, results + c * result_bytes)
        for c in range(n_tokens * group):
            out = load_word(op + ATTENTION.out) + (token + c // group) * load_word(op + ATTENTION.out_stride)
            finish(totals + c * result_bytes, out + (kv_head * group + c % group) * q_bytes)

    @device
    def attend_in_part(op, where, place, turn, thread, n_threads, q, weights):
        """Every n-th block of one tile and head; the blocks are numbered on from `turn`."""
        token, n_tokens, kv_head, _, begin, end = where
        columns = n_tokens * load_word(op + ATTENTION.group)
        first = begin + (thread - turn) % n_threads
        if first < end:
            gather_queries(op, token, n_tokens, kv_head, q)
        for block in range(first, end, n_threads):
            block_partials(op, where, block, q, weights, place + block * columns * result_bytes)

    def attention(op, thread, n_threads):
        q = load_word(op + ATTENTION.scratch) + thread * load_word(op + ATTENTION.scratch_stride)
        results = q + MAX_COLUMNS * q_bytes
        totals = results + MAX_COLUMNS * result_bytes
        weights = totals + MAX_COLUMNS * result_bytes
        spread = load_word(load_word(op + ATTENTION.spread))
        turn = 0
        for item in range(load_word(load_word(op + ATTENTION.n_tiles)) * load_word(op + ATTENTION.n_kv_heads)):
            where = piece(op, item)
            if spread:
                place = partials(op, item, result_bytes)
                attend_in_part(op, where, place, turn, thread, n_threads, q, weights)
                turn += where[5] - where[4]
            elif item % n_threads == thread:
                attend_at_once(op, where, q, results, totals, weights)

    return attention


@device
def piece(op, item):
    """A query tile and a key/value head: first token, tokens, head, first token's position, blocks [begin, end)."""
    n_kv_heads, window = load_word(op + ATTENTION.n_kv_heads), load_word(op + ATTENTION.window)
    tile = item // n_kv_heads
    token = load_i32(load_word(op + ATTENTION.tiles) + 8 * tile)
    n_tokens = load_i32(load_word(op + ATTENTION.tiles) + 8 * tile + 4)
    position = load_i32(load_word(op + ATTENTION.positions) + 4 * token)
    begin = max(position - window + 1, 0) // BLOCK_TOKENS if window else 0
    end = (position + n_tokens - 1) // BLOCK_TOKENS + 1
    return types.intp(token), types.intp(n_tokens), item - tile * n_kv_heads, types.intp(position), begin, end


@device
def partials(op, item, result_bytes):
    """Where the partial results of a piece are."""
    size = load_word(op + ATTENTION.max_blocks) * MAX_COLUMNS * result_bytes
    return load_word(op + ATTENTION.partials) + item * size


def build_attention_merge(isa: Isa, head_dim: int) -> Callable:
    """The kernel that merges the partial results where the blocks were spread over the threads."""
    merge, clear, finish = _build_merge(isa, head_dim)
    result_bytes, q_bytes = column_bytes(head_dim), 4 * head_dim

    def attention_merge(op, thread, n_threads):
        if not load_word(load_word(op + ATTENTION.spread)):
            return
        total = load_word(op + ATTENTION.scratch) + thread * load_word(op + ATTENTION.scratch_stride)
        group = load_word(op + ATTENTION.group)
        for item in range(load_word(load_word(op + ATTENTION.n_tiles)) * load_word(op + ATTENTION.n_kv_heads)):
            token, n_tokens, kv_head, _, begin, end = piece(op, item)
            columns = n_tokens * group
            place = partials(op, item, result_bytes)
            for c in range(columns):
                if (item * columns + c) % n_threads == thread:
                    clear(total)
                    for block in range(begin, end):
                        merge(total, place + (block * columns + c) * result_bytes)
                    out = load_word(op + ATTENTION.out) + (token + c // group) * load_word(op + ATTENTION.out_stride)
                    finish(total, out + (kv_head * group + c % group) * q_bytes)

    return attention_merge


def _build_gather(head_dim: int) -> Callable:
    """`gather_queries(op, token, n_tokens, kv_head, q)`: the queries of a group's heads, column after column."""

    @device
    def gather_queries(op, token, n_tokens, kv_head, q):
        group = load_word(op + ATTENTION.group)
        for t in range(n_tokens):
            source = load_word(op + ATTENTION.q) + (token + t) * load_word(op + ATTENTION.q_stride)
            source += kv_head * group * head_dim * 4
            for i in range(group * head_dim):
                store_f32(q + 4 * (t * group * head_dim + i), load_f32(source + 4 * i))

    return gather_queries


def _build_block_partials(isa: Isa, head_dim: int) -> Callable:
    """`block_partials(op, where, block, q, weights, results)`: one block for all columns of a piece."""
    partial1, partial2, partial3, partial4 = (_build_partial(isa, head_dim, n) for n in (1, 2, 3, 4))
    result_bytes, q_bytes, block_bytes = column_bytes(head_dim), 4 * head_dim, BLOCK_TOKENS * head_dim * 2

    @device
    def block_partials(op, where, block, q, weights, results):
        token, n_tokens, kv_head, position, _, _ = where
        group, window = load_word(op + ATTENTION.group), load_word(op + ATTENTION.window)
        sequence = load_i32(load_word(op + ATTENTION.sequences) + 4 * token)
        table = load_word(op + ATTENTION.block_tables) + sequence * load_word(op + ATTENTION.table_stride)
        offset = (load_i32(table + 4 * block) * load_word(op + ATTENTION.n_kv_heads) + kv_head) * block_bytes
        keys, values = load_word(op + ATTENTION.k_cache) + offset, load_word(op + ATTENTION.v_cache) + offset
        here, columns = position - block * BLOCK_TOKENS, n_tokens * group
        for c in range(0, columns, _TILE):
            a, b, n = q + c * q_bytes, results + c * result_bytes, min(columns - c, _TILE)
            if n == 4:
                partial4(a, keys, values, weights, b, here, c, group, window)
            elif n == 3:
                partial3(a, keys, values, weights, b, here, c, group, window)
            elif n == 2:
                partial2(a, keys, values, weights, b, here, c, group, window)
            else:
                partial1(a, keys, values, weights, b, here, c, group, window)

    return block_partials


def _build_partial(isa: Isa, head_dim: int, columns: int) -> Callable:
    """`partial(q, keys, values, weights, results, here, c, group, window)`: one block for 1 to 4 columns.

    `here` is the position of the tile's first token counted from the block's first; `c` is the first column's number.
    """
    vectors = 4 if isa.lanes == 16 else 1  # of 16 tokens, or of 16 values, in registers at once
    score_pass = _build_scores(isa, head_dim, columns, vectors)
    slices = [(start, min(vectors, head_dim // 16 - start)) for start in range(0, head_dim // 16, vectors)]
    n_slices = sum(1 for _, width in slices if width == vectors)
    rest = head_dim // 16 - n_slices * vectors
    value_pass = _build_values(isa, head_dim, columns, vectors)
    rest_pass = _build_values(isa, head_dim, columns, rest) if rest else value_pass
    softmax = _build_softmax(isa)
    result_bytes = column_bytes(head_dim)

    @device
    def partial(q, keys, values, weights, results, here, c, group, window):
        for i in range(4 // vectors):
            score_pass(q, keys + i * vectors * head_dim * 32, weights + i * vectors * 64)
        for t in range(columns):
            visible = here + (c + t) // group + 1
            hidden = visible - window if window else 0
            softmax(weights + 256 * t, results + t * result_bytes, types.int32(hidden), types.int32(visible))
        n = min(here + (c + columns - 1) // group + 1, BLOCK_TOKENS)
        for i in range(n_slices):
            value_pass(weights, values + i * vectors * 32, results + 64 + i * vectors * 64, n)
        if rest:
            value_pass_end = n_slices * vectors
            rest_pass(weights, values + value_pass_end * 32, results + 64 + value_pass_end * 64, n)

    return partial


def _build_scores(isa: Isa, head_dim: int, columns: int, vectors: int) -> Callable:
    """Scores of 16 x `vectors` tokens for each column: a running sum over the head's dimensions, lane = token."""
    emitted = simd.emitter_for(isa, 16)
    tile = simd.tile(16, columns * vectors)
    at_once = 4

    @emitted(tile)
    def zeros(s):
        return [s.zero_f32()] * (columns * vectors)

    @emitted(tile, tile, INTP, INTP)
    def step(s, acc, q, keys):
        acc = list(acc)
        for d in range(at_once):
            k = [s.load_f16(keys + (v * head_dim * 32 + 32 * d)) for v in range(vectors)]
            for t in range(columns):
                query = s.broadcast_f32(q + (t * head_dim * 4 + 4 * d))
                for v in range(vectors):
                    acc[t * vectors + v] = s.fma(k[v], query, acc[t * vectors + v])
        return acc

    @emitted(types.void, INTP, tile)
    def store(s, scores, acc):
        for t in range(columns):
            for v in range(vectors):
                s.store(scores + (4 * BLOCK_TOKENS * t + 64 * v), acc[t * vectors + v])

    @device
    def score_pass(q, keys, scores):
        acc = zeros()
        for d in range(0, head_dim, at_once):
            acc = step(acc, q + 4 * d, keys + 32 * d)
        store(scores, acc)

    return score_pass


def _build_softmax(isa: Isa) -> Callable:
    """`softmax(scores, result, hidden, visible)`: scores to weights in place; tokens in [hidden, visible) count."""
    emitted = simd.emitter_for(isa, 16)

    @emitted(types.void, INTP, INTP, types.int32, types.int32)
    def softmax(s, scores, result, hidden, visible):
        lowest = s.constant(FLOAT, _LOWEST, 16)
        low, high = s.splat(hidden), s.splat(visible)
        masked = []
        for v in range(BLOCK_TOKENS // 16):
            token = s.constants(I32, range(16 * v, 16 * v + 16))
            score = s.load_f32(scores + 64 * v)
            masked.append(s.select_within(token, low, high, score, lowest))
        largest = masked[0]
        for score in masked[1:]:
            largest = s.maximum(largest, score)
        top = s.reduce(largest, s.maximum)
        top = s.select_greater(top, s.like(top, _LEAST_MAXIMUM), top, s.like(top, _LEAST_MAXIMUM))
        weights = [s.exp(score - s.splat(top)) for score in masked]
        for v, weight in enumerate(weights):
            s.store(scores + 64 * v, weight)
        total = (weights[0] + weights[1]) + (weights[2] + weights[3])
        s.store(result, top)
        s.store(result + 4, s.reduce(total, lambda a, b: a + b))

    return softmax


def _build_values(isa: Isa, head_dim: int, columns: int, vectors: int) -> Callable:
    """16 x `vectors` dimensions of the weighted values for each column: a running sum over the tokens."""
    emitted = simd.emitter_for(isa, 16)
    tile = simd.tile(16, columns * vectors)

    @emitted(tile)
    def zeros(s):
        return [s.zero_f32()] * (columns * vectors)

    @emitted(tile, tile, INTP, INTP)
    def step(s, acc, weights, values):
        acc = list(acc)
        v = [s.load_f16(values + 32 * i) for i in range(vectors)]
        for t in range(columns):
            weight = s.broadcast_f32(weights + 4 * BLOCK_TOKENS * t)
            for i in range(vectors):
                acc[t * vectors + i] = s.fma(v[i], weight, acc[t * vectors + i])
        return acc

    @emitted(types.void, INTP, tile)
    def store(s, out, acc):
        for t in range(columns):
            for i in range(vectors):
                s.store(out + (column_bytes(head_dim) * t + 64 * i), acc[t * vectors + i])

    @device
    def value_pass(weights, values, out, n):
        acc = zeros()
        for token in range(n):
            acc = step(acc, weights + 4 * token, values + 2 * head_dim * token)
        store(out, acc)

    return value_pass


def _build_merge(isa: Isa, head_dim: int) -> tuple[Callable, Callable, Callable]:
    """`merge(total, part)`, `clear(total)`, and `finish(total, out)`, which divides by the sum."""
    emitted = simd.emitter_for(isa, 16)
    lowest = np.float32(_LOWEST)

    @emitted(types.void, INTP, INTP)
    def merge(s, total, part):
        a_top, b_top = s.load(FLOAT, total), s.load(FLOAT, part)
        top = s.select_greater(a_top, b_top, a_top, b_top)
        a, b = s.exp(s.splat(a_top - top)), s.exp(s.splat(b_top - top))
        a_sum, b_sum = s.broadcast_f32(total + 4), s.broadcast_f32(part + 4)
        s.store(total, top)
        s.store(total + 4, s.first_lane(s.fma(b_sum, b, a_sum * a)))
        for i in range(head_dim // 16):
            at = 64 + 64 * i
            s.store(total + at, s.fma(s.load_f32(part + at), b, s.load_f32(total + at) * a))

    @emitted(types.void, INTP, INTP)
    def divide(s, total, out):
        inverse = s.splat(s.like(s.load(FLOAT, total), 1.0) / s.load(FLOAT, total + 4))
        for i in range(head_dim // 16):
            s.store(out + 64 * i, s.load_f32(total + (64 + 64 * i)) * inverse)

    @device
    def clear(total):
        store_f32(total, lowest)
        for i in range(1, head_dim + 16):
            store_f32(total + 4 * i, np.float32(0))

    return merge, clear, divide
