"""Kernels' view of the formats of 256 weights in sub-blocks: Q4_K, Q5_K, Q6_K.

A sub-block's scale is the block's times a small integer; the two are multiplied, as floats, before they meet a sum.
"""

from collections.abc import Callable, Iterator

import numpy as np

from llmrun.cpu_kernels.jit import device
from llmrun.cpu_kernels.memory import load_f16, load_i8, load_u8, store_f32
from llmrun.cpu_kernels.panel_format import PanelFormat
from llmrun.cpu_kernels.simd import Emitter, raised
from llmrun.cpu_kernels.vector import V
from llmrun.cpu_kernels.weight_group import GroupKind, WeightGroup


def _byte_as_f32(s: Emitter, v: V, i: int) -> V:
    """Byte i of each lane, unsigned, as a float."""
    return s.to_f32((v >> (8 * i)) & 255)


def _scales_and_minimums(s: Emitter, packed: V) -> tuple[list[V], list[V]]:
    """The 6-bit scales and minimums of eight sub-blocks from three words a row: two vectors of four bytes each."""
    w0, w1, w2 = (s.load_i32(packed + 4 * s.lanes * i) for i in range(3))
    scales = [w0 & 0x3F3F3F3F, (w2 & 0x0F0F0F0F) | ((w0 >> 2) & 0x30303030)]
    minimums = [w1 & 0x3F3F3F3F, ((w2 >> 4) & 0x0F0F0F0F) | ((w1 >> 2) & 0x30303030)]
    return scales, minimums


def _factors(s: Emitter, h: V, w: V) -> Iterator[tuple[V, V]]:
    """Scale and minimum of each sub-block of Q4_K and Q5_K, the scale without the block's."""
    minus_d_min = s.zero_f32() - s.load_f16(h + 2 * s.lanes)
    scales, minimums = _scales_and_minimums(s, w)
    for j in range(8):
        yield _byte_as_f32(s, scales[j // 4], j % 4), minus_d_min * _byte_as_f32(s, minimums[j // 4], j % 4)


def _with_minimum(word: Callable[[int], V], scale: V, minimum: V) -> WeightGroup:
    return WeightGroup(word, [scale], lambda: minimum)


def _q4_k(s: Emitter, h: V, w: V) -> Iterator[WeightGroup]:
    d, row, up = s.load_f16(h), 4 * s.lanes, raised(s.isa, 4)
    halves = [(0, d), (up, d * 2.0**-up)]  # the second of two sub-blocks may stay where it is, high in the bytes
    for j, (scale, minimum) in enumerate(_factors(s, h, w)):

        def word(step: int, j: int = j) -> V:
            quants = s.load_bytes(w + (3 + 8 * (j // 2) + step) * row)
            return s.bits(quants, 4 * (j % 2), 4, halves[j % 2][0])

        yield _with_minimum(word, halves[j % 2][1] * scale, minimum)


def _q5_k(s: Emitter, h: V, w: V) -> Iterator[WeightGroup]:
    d, row = s.load_f16(h), 4 * s.lanes
    for j, (scale, minimum) in enumerate(_factors(s, h, w)):

        def word(step: int, j: int = j) -> V:
            low = s.load_bytes(w + (11 + 8 * (j // 2) + step) * row)
            high = s.load_bytes(w + (3 + step) * row)  # bit j of a byte belongs to sub-block j
            return s.bits(low, 4 * (j % 2), 4) | s.bits(high, j, 1, 4)

        yield _with_minimum(word, d * scale, minimum)


def _q6_k(s: Emitter, h: V, w: V) -> Iterator[WeightGroup]:
    row, up = 4 * s.lanes, raised(s.isa, 6)
    d = s.load_f16(h) * 2.0**-up

    def scale(i: int) -> V:
        scales = s.load_i32(w + i // 4 * row)
        return d * s.to_f32((scales << (24 - 8 * (i % 4))).arithmetic_shift(24))

    def word_of(j: int) -> Callable[[int], V]:
        half, quarter = divmod(j, 4)

        def word(step: int) -> V:
            nibbles = s.load_bytes(w + (4 + 24 * half + 8 * (quarter % 2) + step) * row)
            pairs = s.load_bytes(w + (20 + 24 * half + step) * row)
            return s.bits(nibbles, 4 * (quarter // 2), 4, up) | s.bits(pairs, 2 * quarter, 2, 4 + up)

        return word

    for j in range(8):
        yield WeightGroup(word_of(j), [scale(2 * j), scale(2 * j + 1)])


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


_MINIMUMS, _OFFSET = GroupKind(has_minimum=True), GroupKind(offset=32, n_scales=2)

Q4_K = PanelFormat(
    "Q4_K", 256, 144, ((0, 0), (2, 0), (4, 3), (16, 32)), _dequantise_q4_k, _q4_k, _MINIMUMS, many_columns=32
)
Q5_K = PanelFormat("Q5_K", 256, 176, ((0, 0), (2, 0), (4, 3), (16, 8), (48, 32)), _dequantise_q5_k, _q5_k, _MINIMUMS)
Q6_K = PanelFormat(
    "Q6_K", 256, 210, ((192, 4), (0, 16), (128, 8), (64, 16), (160, 8), (208, 0)), _dequantise_q6_k, _q6_k, _OFFSET
)
