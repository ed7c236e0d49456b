"""Kernels' view of the formats of 32 weights with one scale: Q8_0, Q4_0, Q4_1, Q5_0, Q5_1."""

from collections.abc import Callable, Iterator

import numpy as np

from llmrun.cpu_kernels.jit import device
from llmrun.cpu_kernels.memory import load_f16, load_i8, load_u8, load_u32, store_f32
from llmrun.cpu_kernels.panel_format import PanelFormat
from llmrun.cpu_kernels.simd import Emitter, raised
from llmrun.cpu_kernels.vector import V
from llmrun.cpu_kernels.weight_group import GroupKind, WeightGroup


def _nibbles(s: Emitter, quants: V, planes: V | None = None, up: int = 0) -> Callable[[int], V]:
    """Weights of 4 bits, or of 5 where `planes` holds the fifth: bit `step` of each byte. They are moved `up`."""
    words = [s.load_bytes(quants + 4 * s.lanes * i) for i in range(4)]

    def word(step: int) -> V:
        u = s.bits(words[step % 4], step // 4 * 4, 4, up)
        return u if planes is None else u | s.bits(planes, step, 1, 4 + up)

    return word


def _q4_0(s: Emitter, h: V, w: V) -> Iterator[WeightGroup]:
    up = raised(s.isa, 4)
    yield WeightGroup(_nibbles(s, w, None, up), [s.load_f16(h) * 2.0**-up])


def _q4_1(s: Emitter, h: V, w: V) -> Iterator[WeightGroup]:
    yield WeightGroup(_nibbles(s, w), [s.load_f16(h)], lambda: s.load_f16(h + 2 * s.lanes))


def _q5_0(s: Emitter, h: V, w: V) -> Iterator[WeightGroup]:
    up = raised(s.isa, 5)
    yield WeightGroup(_nibbles(s, w + 4 * s.lanes, s.load_bytes(w), up), [s.load_f16(h) * 2.0**-up])


def _q5_1(s: Emitter, h: V, w: V) -> Iterator[WeightGroup]:
    word = _nibbles(s, w + 4 * s.lanes, s.load_bytes(w))
    yield WeightGroup(word, [s.load_f16(h)], lambda: s.load_f16(h + 2 * s.lanes))


def _q8_0(s: Emitter, h: V, w: V) -> Iterator[WeightGroup]:
    yield WeightGroup(lambda step: s.signed_weights(s.load_bytes(w + 4 * s.lanes * step)), [s.load_f16(h)])


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


Q4_0 = PanelFormat("Q4_0", 32, 18, ((0, 0), (2, 4)), _dequantise_q4_0, _q4_0, GroupKind(offset=8), many_columns=32)
Q4_1 = PanelFormat(
    "Q4_1", 32, 20, ((0, 0), (2, 0), (4, 4)), _dequantise_q4_1, _q4_1, GroupKind(has_minimum=True), many_columns=32
)
Q5_0 = PanelFormat(
    "Q5_0", 32, 22, ((0, 0), (2, 1), (6, 4)), _dequantise_q5_0, _q5_0, GroupKind(offset=16), bit_plane_field=1
)
Q5_1 = PanelFormat(
    "Q5_1", 32, 24, ((0, 0), (2, 0), (4, 1), (8, 4)), _dequantise_q5_1, _q5_1, GroupKind(has_minimum=True),
    bit_plane_field=2,
)  # fmt: skip
Q8_0 = PanelFormat("Q8_0", 32, 34, ((0, 0), (2, 8)), _dequantise_q8_0, _q8_0, GroupKind(offset=128))
