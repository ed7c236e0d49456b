"""Grouped-query attention over the blocks of the KV cache.

The unit is one block of keys and values against up to QUERY_COLUMNS query columns (tokens x heads of a group), so a
block is read once for all of them. The RUN_BLOCKS blocks of a run are added up one after the other to a partial result
(exponent, sum, weighted values); partial results are merged in the order of the runs. Where there are few query tiles,
the runs are spread over the threads and merged afterwards, else each thread merges as it goes: the same operations in
the same order, so the same bits.
"""

import math
from collections.abc import Callable

import numpy as np
from numba import types

from llmrun.cpu_kernels import kv_bytes
from llmrun.cpu_kernels.attention_merge import build_clear, build_finish, build_merge_runs
from llmrun.cpu_kernels.attention_softmax import build_softmax
from llmrun.cpu_kernels.fields import ATTENTION
from llmrun.cpu_kernels.isa import Isa
from llmrun.cpu_kernels.jit import device
from llmrun.cpu_kernels.kv_layouts import layout_of
from llmrun.cpu_kernels.kv_types import KVType
from llmrun.cpu_kernels.memory import load_i32, load_word, store_f32, store_i32
from llmrun.cpu_kernels.step import (
    BLOCK_TOKENS,
    MAX_COLUMNS,
    RUN_BLOCKS,
    TILE,
    attention_scratch_bytes,
    column_bytes,
)

_LIMITS = 6 * BLOCK_TOKENS * TILE  # where the first and last visible token of each column are, behind the weights


def build_attention(isa: Isa, head_dim: int, kv: KVType) -> Callable:
    """The kernel for one head size and one type of keys and values."""
    take_queries, add_blocks = _build_take(isa, head_dim, kv), _build_add_blocks(isa, head_dim, kv)
    clear, merge_runs = build_clear(isa, head_dim), build_merge_runs(isa, head_dim)
    finish = build_finish(isa, head_dim, turned_values=kv.turns_values)
    result_bytes, q_bytes = column_bytes(head_dim), 4 * head_dim
    assert attention_scratch_bytes(head_dim) >= MAX_COLUMNS * (q_bytes + 2 * result_bytes) + _LIMITS + 8 * TILE

    @device
    def attend_at_once(op, where, q, results, totals, weights):
        """All runs of one tile and head, merged as they come."""
        token, n_tokens, kv_head, _, begin, end = where
        group = load_word(op + ATTENTION.group)
        take_queries(op, token, n_tokens, kv_head, q)
        for c in range(n_tokens * group):
            clear(totals + c * result_bytes)
        for run in range(begin // RUN_BLOCKS, (end - 1) // RUN_BLOCKS + 1):
            for c in range(n_tokens * group):
                clear(results + c * result_bytes)
            add_blocks(op, where, run, run + 1, q, weights, results)
            for c in range(n_tokens * group):
                merge_runs(totals + c * result_bytes, results + c * result_bytes, 0, 1)
        for c in range(n_tokens * group):
            out = load_word(op + ATTENTION.out) + (token + c // group) * load_word(op + ATTENTION.out_stride)
            finish(totals + c * result_bytes, out + (kv_head * group + c % group) * q_bytes)

    @device
    def attend_in_part(op, where, place, turn, thread, n_threads, q, weights):
        """Every n-th run of one tile and head; the runs are numbered on from `turn`."""
        token, n_tokens, kv_head, _, begin, end = where
        columns = n_tokens * load_word(op + ATTENTION.group)
        first, last = begin // RUN_BLOCKS, (end - 1) // RUN_BLOCKS + 1
        mine = first + (thread - turn) % n_threads
        if mine < last:
            take_queries(op, token, n_tokens, kv_head, q)
        for run in range(mine, last, n_threads):
            results = place + run * columns * result_bytes
            for c in range(columns):
                clear(results + c * result_bytes)
            add_blocks(op, where, run, run + n_threads, q, weights, results)
        return last - first

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
                turn += attend_in_part(op, where, place, turn, thread, n_threads, q, weights)
            elif item % n_threads == thread:
                attend_at_once(op, where, q, results, totals, weights)

    return attention


@device
def piece(op, item):
    """A query tile and a key/value head: first token, tokens, head, first token's position, blocks [begin, end).

    Where the whole sequence is seen, the position is that of its last token.
    """
    n_kv_heads, window = load_word(op + ATTENTION.n_kv_heads), load_word(op + ATTENTION.window)
    tile = item // n_kv_heads
    token = load_i32(load_word(op + ATTENTION.tiles) + 8 * tile)
    n_tokens = load_i32(load_word(op + ATTENTION.tiles) + 8 * tile + 4)
    position = load_i32(load_word(op + ATTENTION.positions) + 4 * token)
    begin = max(position - window + 1, 0) // BLOCK_TOKENS if window else 0
    lengths = load_word(op + ATTENTION.lengths)
    if lengths:
        position = load_i32(lengths + 4 * load_i32(load_word(op + ATTENTION.sequences) + 4 * token)) - 1
    last = position if lengths else position + n_tokens - 1
    end = last // BLOCK_TOKENS + 1
    return types.intp(token), types.intp(n_tokens), item - tile * n_kv_heads, types.intp(position), begin, end


@device
def partials(op, item, result_bytes):
    """Where the partial results of a piece are."""
    n_runs = (load_word(op + ATTENTION.max_blocks) + RUN_BLOCKS - 1) // RUN_BLOCKS
    return load_word(op + ATTENTION.partials) + item * n_runs * MAX_COLUMNS * result_bytes


def build_attention_merge(isa: Isa, head_dim: int, kv: KVType) -> Callable:
    """The kernel that merges the partial results where the runs were spread over the threads."""
    clear, merge_runs = build_clear(isa, head_dim), build_merge_runs(isa, head_dim)
    finish = build_finish(isa, head_dim, turned_values=kv.turns_values)
    result_bytes, q_bytes = column_bytes(head_dim), 4 * head_dim

    def attention_merge(op, thread, n_threads):
        if not load_word(load_word(op + ATTENTION.spread)):
            return
        total = load_word(op + ATTENTION.scratch) + thread * load_word(op + ATTENTION.scratch_stride)
        group = load_word(op + ATTENTION.group)
        for item in range(load_word(load_word(op + ATTENTION.n_tiles)) * load_word(op + ATTENTION.n_kv_heads)):
            token, n_tokens, kv_head, _, begin, end = piece(op, item)
            columns, first = n_tokens * group, begin // RUN_BLOCKS
            n_runs = (end - 1) // RUN_BLOCKS + 1 - first
            place = partials(op, item, result_bytes) + first * columns * result_bytes
            for c in range(columns):
                if (item * columns + c) % n_threads == thread:
                    clear(total)
                    merge_runs(total, place + c * result_bytes, columns * result_bytes, n_runs)
                    out = load_word(op + ATTENTION.out) + (token + c // group) * load_word(op + ATTENTION.out_stride)
                    finish(total, out + (kv_head * group + c % group) * q_bytes)

    return attention_merge


def _build_take(isa: Isa, head_dim: int, kv: KVType) -> Callable:
    """`take_queries(op, token, n_tokens, kv_head, q)`: the queries of a group's heads, column after column."""
    take = layout_of(kv).build_take(isa, head_dim, kv)
    q_bytes, scale = 4 * head_dim, np.float32(math.log2(math.e))  # weights are powers of two

    @device
    def take_queries(op, token, n_tokens, kv_head, q):
        group = load_word(op + ATTENTION.group)
        for t in range(n_tokens):
            source = load_word(op + ATTENTION.q) + (token + t) * load_word(op + ATTENTION.q_stride)
            for i in range(group):
                take(source + (kv_head * group + i) * q_bytes, q + (t * group + i) * q_bytes, scale)

    return take_queries


def _build_add_blocks(isa: Isa, head_dim: int, kv: KVType) -> Callable:
    """`add_blocks(op, where, run, next_run, q, weights, results)`: the blocks of a run for all columns of a piece.

    The thread goes on with `next_run`, so the first of its blocks is fetched meanwhile.
    """
    add1, add2, add3, add4 = (_build_add_block(isa, head_dim, kv, n) for n in (1, 2, 3, 4))
    result_bytes, q_bytes, has_residuals = column_bytes(head_dim), 4 * head_dim, kv.has_residuals
    head_bytes = kv.head_bytes(head_dim)

    @device
    def entry_of(op, tables, token, block):
        sequence = load_i32(load_word(op + ATTENTION.sequences) + 4 * token)
        return load_i32(tables + sequence * load_word(op + ATTENTION.table_stride) + 4 * block)

    @device
    def place_of(op, token, block, kv_head):
        entry = entry_of(op, load_word(op + ATTENTION.block_tables), token, block)
        return entry * load_word(op + ATTENTION.n_kv_heads) + kv_head

    @device
    def residual_of(op, token, block, kv_head, position):
        """Where the residuals of a block are that a tile reads, in heads of a block; -1 if it reads none."""
        if block > 0 and block // RUN_BLOCKS != position // (BLOCK_TOKENS * RUN_BLOCKS):
            return types.intp(-1)
        entry = entry_of(op, load_word(op + ATTENTION.residual_tables), token, block)
        return entry * load_word(op + ATTENTION.n_kv_heads) + kv_head if entry >= 0 else types.intp(-1)

    @device
    def add_blocks(op, where, run, next_run, q, weights, results):
        token, n_tokens, kv_head, position, begin, end = where
        group, window = load_word(op + ATTENTION.group), load_word(op + ATTENTION.window)
        columns, last = n_tokens * group, min((run + 1) * RUN_BLOCKS, end)
        sharing = MAX_COLUMNS if load_word(op + ATTENTION.lengths) else group  # columns that see the same tokens
        for block in range(max(run * RUN_BLOCKS, begin), last):
            follower = block + 1 if block + 1 < last else next_run * RUN_BLOCKS
            place = place_of(op, token, block, kv_head)
            ahead = place_of(op, token, follower, kv_head) - place if follower < end else 0
            keys = load_word(op + ATTENTION.k_cache) + place * head_bytes
            values = load_word(op + ATTENTION.v_cache) + place * head_bytes
            residual = residual_of(op, token, block, kv_head, position) if has_residuals else types.intp(-1)
            more_keys = load_word(op + ATTENTION.k_cache) + residual * head_bytes if residual >= 0 else types.intp(0)
            more_values = load_word(op + ATTENTION.v_cache) + residual * head_bytes
            here = position - block * BLOCK_TOKENS
            for c in range(0, columns, TILE):
                a, b, n = q + c * q_bytes, results + c * result_bytes, min(columns - c, TILE)
                if n == 4:
                    add4(a, keys, values, more_keys, more_values, ahead, weights, b, here, c, sharing, window)
                elif n == 3:
                    add3(a, keys, values, more_keys, more_values, ahead, weights, b, here, c, sharing, window)
                elif n == 2:
                    add2(a, keys, values, more_keys, more_values, ahead, weights, b, here, c, sharing, window)
                else:
                    add1(a, keys, values, more_keys, more_values, ahead, weights, b, here, c, sharing, window)
                ahead = 0

    return add_blocks


def _build_add_block(isa: Isa, head_dim: int, kv: KVType, columns: int) -> Callable:
    """`add(q, keys, values, more_keys, more_values, ahead, weights, results, here, c, sharing, window)`: one block.

    For 1 to 4 columns. `more_keys` and `more_values` are the block's residuals, if they are not 0. `here` is the
    position of the tile's first token counted from the block's first; `c` is the first column's number; the next block
    is `ahead` heads of a block further. After every `sharing` columns, one more token is seen.
    """
    layout = layout_of(kv)
    scores = layout.build_scores(isa, head_dim, columns, kv)
    softmax = build_softmax(isa, head_dim, columns)
    add_values = layout.build_values(isa, head_dim, columns, kv)
    has_residuals = kv.has_residuals
    add_scores = kv_bytes.build_scores(isa, head_dim, columns, kv, adds=True) if has_residuals else scores
    head_bytes, result_bytes = kv.head_bytes(head_dim), column_bytes(head_dim)

    @device
    def add(q, keys, values, more_keys, more_values, ahead, weights, results, here, c, sharing, window):
        scores(q, keys, ahead * head_bytes, weights)
        if has_residuals and more_keys:
            add_scores(q, more_keys, 0, weights)
        for t in range(columns):
            visible = here + (c + t) // sharing + 1  # not more than 0 where the token is of an earlier block
            store_i32(weights + _LIMITS + 8 * t, types.int32(visible - window if window else 0))
            store_i32(weights + _LIMITS + 8 * t + 4, types.int32(visible))
        softmax(weights, weights + _LIMITS, results)
        visible = here + (c + columns - 1) // sharing + 1
        add_values(weights, values, ahead * head_bytes, results, min(max(visible, 0), BLOCK_TOKENS))
        if has_residuals and more_keys:
            for t in range(columns):
                store_f32(results + t * result_bytes + 8, types.float32(1))  # the factor of what is there
            add_values(weights, more_values, 0, results, min(max(visible, 0), BLOCK_TOKENS))

    return add
