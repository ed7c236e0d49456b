"""Kernels' view of the formats of 256 weights in sub-blocks: Q4_K, Q5_K, Q6_K.

The dot product of a sub-block is an exact integer. Inside a block they are summed in float32, each times its small
integer scale, in ascending order, and so are the minimums, each times its activation sum. The block enters the float
sum with one fused multiply-add.
"""

import numpy as np

from llmrun.cpu_kernels.activations import Q256, Q256Record
from llmrun.cpu_kernels.jit import device
from llmrun.cpu_kernels.memory import load_f16, load_i8, load_u8, store_f32
from llmrun.cpu_kernels.panel_format import PanelFormat
from llmrun.cpu_kernels.simd import Emitter, V


def _byte_as_f32(s: Emitter, v: V, i: int) -> V:
    """Byte i of each lane, unsigned, as a float."""
    return s.to_f32((v >> (8 * i)) & 255)


def _scales_and_minimums(s: Emitter, packed: V) -> tuple[list[V], list[V]]:
    """The 6-bit scales and minimums of eight sub-blocks from three words a row: two vectors of four bytes each."""
    w0, w1, w2 = (s.load_i32(packed + 4 * s.lanes * i) for i in range(3))
    scales = [w0 & 0x3F3F3F3F, (w2 & 0x0F0F0F0F) | ((w0 >> 2) & 0x30303030)]
    minimums = [w1 & 0x3F3F3F3F, ((w2 >> 4) & 0x0F0F0F0F) | ((w1 >> 2) & 0x30303030)]
    return scales, minimums


def _minimum_sums(s: Emitter, minimums: list[V], x: Q256Record) -> list[V]:
    """For each column, the minimums times the activation sums of their sub-blocks, in ascending order."""
    sums = [s.zero_f32()] * x.columns
    for j in range(8):
        minimum = _byte_as_f32(s, minimums[j // 4], j % 4)
        sums = [s.fma(minimum, x.sum(t, j), total) for t, total in enumerate(sums)]
    return sums


def _dot_scaled_nibbles(s: Emitter, acc: list[V], w: V, x: V, quants: int, high_bits: int | None) -> list[V]:
    """Q4_K, and Q5_K with the address of its high bits: bit j of a byte belongs to sub-block j."""
    record, n, row = Q256Record(s, x, len(acc)), len(acc), 4 * s.lanes
    scales, minimums = _scales_and_minimums(s, w + row)
    total = [s.zero_f32()] * n
    for sub_block in range(8):
        high, low = [s.zero_i32()] * n, [s.zero_i32()] * n
        for step in range(8):
            v = s.load_bytes(w + (quants + (sub_block // 2) * 8 + step) * row)
            u = s.high_nibbles(v) if sub_block % 2 else s.low_nibbles(v)
            if high_bits is not None:
                u = u | (s.byte_shift(s.load_bytes(w + (high_bits + step) * row), sub_block - 4) & 16)
            for t in range(n):
                high[t] = s.dot_u8(high[t], u, record.high(t, 8 * sub_block + step))
                low[t] = s.dot_u8(low[t], u, record.low(t, 8 * sub_block + step))
        scale = _byte_as_f32(s, scales[sub_block // 4], sub_block % 4)
        total = [s.fma(s.to_f32((high[t] << 8) + low[t]), scale, total[t]) for t in range(n)]
    minimum = _minimum_sums(s, minimums, record)
    d, d_min = s.load_f16(w), s.load_f16(w + 2 * s.lanes)
    block = [s.fma(total[t], d, s.zero_f32() - d_min * minimum[t]) for t in range(n)]
    return [s.fma(block[t], record.scale(t), acc[t]) for t in range(n)]


def _dot_q4_k(s: Emitter, acc: list[V], w: V, x: V) -> list[V]:
    return _dot_scaled_nibbles(s, acc, w, x, quants=4, high_bits=None)


def _dot_q5_k(s: Emitter, acc: list[V], w: V, x: V) -> list[V]:
    return _dot_scaled_nibbles(s, acc, w, x, quants=12, high_bits=4)


def _dot_q6_k(s: Emitter, acc: list[V], w: V, x: V) -> list[V]:
    record, n, row = Q256Record(s, x, len(acc)), len(acc), 4 * s.lanes
    total = [s.zero_f32()] * n
    for sixteenth in range(16):
        half, quarter = divmod(sixteenth // 2, 4)
        high, low = [s.zero_i32()] * n, [record.negative_sum(t, sixteenth) << 5 for t in range(n)]
        for i in range(4):
            word = (sixteenth % 2) * 4 + i
            nibbles = s.load_bytes(w + (16 * half + 8 * (quarter % 2) + word) * row)
            pairs = s.load_bytes(w + (32 + 8 * half + word) * row)
            u = s.low_nibbles(nibbles) if quarter < 2 else s.high_nibbles(nibbles)
            u = u | (s.byte_shift(pairs, 2 * quarter - 4) & 48)
            for t in range(n):
                high[t] = s.dot_u8(high[t], u, record.high(t, 4 * sixteenth + i))
                low[t] = s.dot_u8(low[t], u, record.low(t, 4 * sixteenth + i))
        scales = s.load_i32(w + (48 + sixteenth // 4) * row)
        scale = s.to_f32((scales << (24 - 8 * (sixteenth % 4))).arithmetic_shift(24))
        total = [s.fma(s.to_f32((high[t] << 8) + low[t]), scale, total[t]) for t in range(n)]
    d = s.load_f16(w + 52 * row)
    return [s.fma(total[t] * d, record.scale(t), acc[t]) for t in range(n)]


@device
def _scale_and_minimum(packed, j):
    if j < 4:
        return load_u8(packed + j) & 63, load_u8(packed + j + 4) & 63
    both = load_u8(packed + j + 4)
    return (both & 15) | ((load_u8(packed + j - 4) >> 6) << 4), (both >> 4) | ((load_u8(packed + j) >> 6) << 4)


@device
def _dequantise_q4_k(source, target):
    d, d_min = load_f16(source), load_f16(source + 2)
    for j in range(8):
        scale, minimum = _scale_and_minimum(source + 4, j)
        factor, offset = d * np.float32(scale), d_min * np.float32(minimum)
        for i in range(32):
            q = (load_u8(source + 16 + (j // 2) * 32 + i) >> (4 * (j % 2))) & 15
            store_f32(target + 4 * (32 * j + i), factor * np.float32(q) - offset)


@device
def _dequantise_q5_k(source, target):
    d, d_min = load_f16(source), load_f16(source + 2)
    for j in range(8):
        scale, minimum = _scale_and_minimum(source + 4, j)
        factor, offset = d * np.float32(scale), d_min * np.float32(minimum)
        for i in range(32):
            q = (load_u8(source + 48 + (j // 2) * 32 + i) >> (4 * (j % 2))) & 15
            q |= ((load_u8(source + 16 + i) >> j) & 1) << 4
            store_f32(target + 4 * (32 * j + i), factor * np.float32(q) - offset)


@device
def _dequantise_q6_k(source, target):
    d = load_f16(source + 208)
    for e in range(256):
        half, quarter, i = e // 128, (e // 32) % 4, e % 32
        low = (load_u8(source + 64 * half + 32 * (quarter % 2) + i) >> (4 * (quarter // 2))) & 15
        high = (load_u8(source + 128 + 32 * half + i) >> (2 * quarter)) & 3
        scale = d * np.float32(load_i8(source + 192 + e // 16))
        store_f32(target + 4 * e, scale * np.float32(np.int32(low | (high << 4)) - 32))


Q4_K = PanelFormat("Q4_K", 256, 144, Q256, ((0, 0), (2, 0), (4, 3), (16, 32)), _dot_q4_k, _dequantise_q4_k)
Q5_K = PanelFormat("Q5_K", 256, 176, Q256, ((0, 0), (2, 0), (4, 3), (16, 8), (48, 32)), _dot_q5_k, _dequantise_q5_k)
Q6_K = PanelFormat("Q6_K", 256, 210, Q256, ((0, 32), (128, 16), (192, 4), (208, 0)), _dot_q6_k, _dequantise_q6_k)
