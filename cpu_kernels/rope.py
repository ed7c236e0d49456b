"""Between the QKV products and attention: QK norm, rotary embedding, and the new keys and values into the cache."""

import math
from collections.abc import Callable

from numba import types

from llmrun.cpu_kernels import kv_bytes
from llmrun.cpu_kernels.fields import ROPE
from llmrun.cpu_kernels.isa import Isa
from llmrun.cpu_kernels.jit import device
from llmrun.cpu_kernels.kv_layouts import layout_of
from llmrun.cpu_kernels.kv_types import KVType
from llmrun.cpu_kernels.memory import load_f32, load_i32, load_word, store_f32
from llmrun.cpu_kernels.rows import build_norm_sum
from llmrun.cpu_kernels.share import share
from llmrun.cpu_kernels.step import BLOCK_TOKENS


def build_rope(isa: Isa, kv: KVType) -> Callable:
    """The kernel for one type of keys and values."""
    prepare, store = _build_prepare(isa), layout_of(kv).build_store(isa, kv)
    has_residuals = kv.has_residuals
    store_residual = kv_bytes.build_store_residual(isa, kv) if has_residuals else store
    dim_bytes = kv.dim_bytes

    @device
    def place_of(op, block, head, n):
        dims = (block * load_word(op + ROPE.n_kv_heads) + head) * n
        return load_word(op + ROPE.k_cache) + dims * dim_bytes, load_word(op + ROPE.v_cache) + dims * dim_bytes

    @device
    def turn_query(op, t, head, n):
        q = load_word(op + ROPE.q) + t * load_word(op + ROPE.q_stride) + head * n * 4
        prepare(op, q, t, head, load_word(op + ROPE.q_bias), load_word(op + ROPE.q_norm))
        scale = load_f32(op + ROPE.scale)
        for i in range(n):
            store_f32(q + 4 * i, load_f32(q + 4 * i) * scale)

    @device
    def store_key_value(op, t, head, n):
        k = load_word(op + ROPE.k) + t * load_word(op + ROPE.k_stride) + head * n * 4
        v = load_word(op + ROPE.v) + t * load_word(op + ROPE.v_stride) + head * n * 4
        prepare(op, k, t, head, load_word(op + ROPE.k_bias), load_word(op + ROPE.k_norm))
        add_bias(v, load_word(op + ROPE.v_bias), head, n)
        position = load_i32(load_word(op + ROPE.positions) + 4 * t)
        sequence = load_i32(load_word(op + ROPE.sequences) + 4 * t)
        table = load_word(op + ROPE.block_tables) + sequence * load_word(op + ROPE.table_stride)
        index, slot = position // BLOCK_TOKENS, position % BLOCK_TOKENS
        keys, values = place_of(op, load_i32(table + 4 * index), head, n)
        store(k, v, keys, values, slot, n)
        if has_residuals:
            residuals = load_word(op + ROPE.residual_tables) + sequence * load_word(op + ROPE.table_stride)
            residual = load_i32(residuals + 4 * index)
            if residual >= 0:
                keys, values = place_of(op, residual, head, n)
                store_residual(k, v, keys, values, slot, n)

    def rope(op, thread, n_threads):
        n_tokens, n = load_word(load_word(op + ROPE.n_tokens)), load_word(op + ROPE.head_dim)
        n_heads = load_word(op + ROPE.n_heads)
        heads = n_heads + load_word(op + ROPE.n_kv_heads)
        first, last = share(n_tokens * heads, thread, n_threads)
        for piece in range(first, last):
            t = piece // heads
            head = piece - t * heads
            if head < n_heads:
                turn_query(op, t, head, n)
            else:
                store_key_value(op, t, head - n_heads, n)

    return rope


@device
def add_bias(x, bias, head, n):
    """x += the part of the bias that belongs to a head; nothing where there is no bias."""
    if bias:
        for i in range(n):
            store_f32(x + 4 * i, load_f32(x + 4 * i) + load_f32(bias + 4 * (head * n + i)))


@device
def turn(x, angles, rope_dim, paired):
    """Rotate pairs of values: neighbours, or the two halves."""
    step = 8 if paired else 4
    apart = 4 if paired else 2 * rope_dim
    for i in range(rope_dim // 2):
        cosine, sine = load_f32(angles + 8 * i), load_f32(angles + 8 * i + 4)
        a, b = load_f32(x + step * i), load_f32(x + step * i + apart)
        store_f32(x + step * i, a * cosine - b * sine)
        store_f32(x + step * i + apart, b * cosine + a * sine)


def _build_prepare(isa: Isa) -> Callable:
    """`prepare(op, x, t, head, bias, norm)`: bias, norm and rotation of one head of token t."""
    sum_of_squares = build_norm_sum(isa)
    sqrt = math.sqrt

    @device
    def prepare(op, x, t, head, bias, norm):
        n, rope_dim = load_word(op + ROPE.head_dim), load_word(op + ROPE.rope_dim)
        add_bias(x, bias, head, n)
        if norm:
            mean = sum_of_squares(x, n) / types.float32(n)
            factor = types.float32(1.0) / types.float32(sqrt(mean + load_f32(op + ROPE.eps)))
            for i in range(n):
                store_f32(x + 4 * i, load_f32(x + 4 * i) * factor * load_f32(norm + 4 * i))
        turn(x, load_word(op + ROPE.angles) + t * rope_dim * 4, rope_dim, load_word(op + ROPE.paired))

    return prepare
