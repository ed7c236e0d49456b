"""Kernels' view of the formats of 32 weights with one scale: Q8_0, Q4_0, Q4_1, Q5_0, Q5_1.

A block's dot product is an exact integer; it enters the float sum with one fused multiply-add for the scale, and one
more for the minimum where the format has one, in ascending block order.
"""

import numpy as np

from llmrun.cpu_kernels.activations import Q32, Q32Record
from llmrun.cpu_kernels.jit import device
from llmrun.cpu_kernels.memory import load_f16, load_i8, load_u8, load_u32, store_f32
from llmrun.cpu_kernels.panel_format import PanelFormat
from llmrun.cpu_kernels.simd import Emitter, V


def _nibble_sums(s: Emitter, start: list[V], quants: V, x: Q32Record, planes: V | None = None) -> list[V]:
    """Integer products of 32 weights of 4 bits, or of 5 where `planes` holds the fifth: bit `step` of each byte."""
    high, low = [s.zero_i32()] * len(start), list(start)
    for word in range(4):
        v = s.load_bytes(quants + 4 * s.lanes * word)
        for step, nibbles in ((word, s.low_nibbles(v)), (word + 4, s.high_nibbles(v))):
            u = nibbles if planes is None else nibbles | (s.byte_shift(planes, step - 4) & 16)
            for t in range(len(start)):
                high[t] = s.dot_u8(high[t], u, x.high(t, step))
                low[t] = s.dot_u8(low[t], u, x.low(t, step))
    return [(h << 8) + c for h, c in zip(high, low, strict=True)]


def _add_scaled(s: Emitter, acc: list[V], c: list[V], d: V, x: Q32Record) -> list[V]:
    return [s.fma(s.to_f32(c[t]) * x.scale(t), d, a) for t, a in enumerate(acc)]


def _add_minimum(s: Emitter, acc: list[V], m: V, x: Q32Record) -> list[V]:
    return [s.fma(m, x.scaled_sum(t), a) for t, a in enumerate(acc)]


def _dot_q4_0(s: Emitter, acc: list[V], w: V, x: V) -> list[V]:
    record = Q32Record(s, x, len(acc))
    start = [record.negative_sum(t) << 3 for t in range(len(acc))]
    c = _nibble_sums(s, start, w + 2 * s.lanes, record)
    return _add_scaled(s, acc, c, s.load_f16(w), record)


def _dot_q4_1(s: Emitter, acc: list[V], w: V, x: V) -> list[V]:
    record = Q32Record(s, x, len(acc))
    c = _nibble_sums(s, [s.zero_i32()] * len(acc), w + 4 * s.lanes, record)
    acc = _add_scaled(s, acc, c, s.load_f16(w), record)
    return _add_minimum(s, acc, s.load_f16(w + 2 * s.lanes), record)


def _dot_q5_0(s: Emitter, acc: list[V], w: V, x: V) -> list[V]:
    record = Q32Record(s, x, len(acc))
    start = [record.negative_sum(t) << 4 for t in range(len(acc))]
    c = _nibble_sums(s, start, w + 6 * s.lanes, record, planes=s.load_bytes(w + 2 * s.lanes))
    return _add_scaled(s, acc, c, s.load_f16(w), record)


def _dot_q5_1(s: Emitter, acc: list[V], w: V, x: V) -> list[V]:
    record = Q32Record(s, x, len(acc))
    zero = [s.zero_i32()] * len(acc)
    c = _nibble_sums(s, zero, w + 8 * s.lanes, record, planes=s.load_bytes(w + 4 * s.lanes))
    acc = _add_scaled(s, acc, c, s.load_f16(w), record)
    return _add_minimum(s, acc, s.load_f16(w + 2 * s.lanes), record)


def _dot_q8_0(s: Emitter, acc: list[V], w: V, x: V) -> list[V]:
    record = Q32Record(s, x, len(acc))
    high, low = [s.zero_i32()] * len(acc), [s.signed_start(record.negative_sum(t)) for t in range(len(acc))]
    for step in range(8):
        weights = s.signed_weights(s.load_bytes(w + (2 * s.lanes + 4 * s.lanes * step)))
        for t in range(len(acc)):
            high[t] = s.dot_s8(high[t], weights, record.high(t, step))
            low[t] = s.dot_s8(low[t], weights, record.low(t, step))
    c = [(h << 8) + c for h, c in zip(high, low, strict=True)]
    return _add_scaled(s, acc, c, s.load_f16(w), record)


@device
def _dequantise_nibbles(quants, high, d, m, target):
    for i in range(16):
        q = load_u8(quants + i)
        low_bit = ((high >> i) & 1) << 4
        high_bit = ((high >> (i + 16)) & 1) << 4
        store_f32(target + 4 * i, np.float32((q & 15) | low_bit) * d + m)
        store_f32(target + 4 * i + 64, np.float32((q >> 4) | high_bit) * d + m)


@device
def _dequantise_q4_0(source, target):
    d = load_f16(source)
    _dequantise_nibbles(source + 2, np.uint32(0), d, np.float32(-8) * d, target)


@device
def _dequantise_q4_1(source, target):
    _dequantise_nibbles(source + 4, np.uint32(0), load_f16(source), load_f16(source + 2), target)


@device
def _dequantise_q5_0(source, target):
    d = load_f16(source)
    _dequantise_nibbles(source + 6, load_u32(source + 2), d, np.float32(-16) * d, target)


@device
def _dequantise_q5_1(source, target):
    _dequantise_nibbles(source + 8, load_u32(source + 4), load_f16(source), load_f16(source + 2), target)


@device
def _dequantise_q8_0(source, target):
    d = load_f16(source)
    for i in range(32):
        store_f32(target + 4 * i, np.float32(load_i8(source + 2 + i)) * d)


Q4_0 = PanelFormat("Q4_0", 32, 18, Q32, ((0, 0), (2, 4)), _dot_q4_0, _dequantise_q4_0)
Q4_1 = PanelFormat("Q4_1", 32, 20, Q32, ((0, 0), (2, 0), (4, 4)), _dot_q4_1, _dequantise_q4_1)
Q5_0 = PanelFormat("Q5_0", 32, 22, Q32, ((0, 0), (2, 1), (6, 4)), _dot_q5_0, _dequantise_q5_0, bit_plane_field=1)
Q5_1 = PanelFormat(
    "Q5_1", 32, 24, Q32, ((0, 0), (2, 0), (4, 1), (8, 4)), _dot_q5_1, _dequantise_q5_1, bit_plane_field=2
)
Q8_0 = PanelFormat("Q8_0", 32, 34, Q32, ((0, 0), (2, 8)), _dot_q8_0, _dequantise_q8_0)
