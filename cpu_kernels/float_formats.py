"""Kernels' view of F32, F16 and BF16: products in float32, one weight after the other."""

from llmrun.cpu_kernels.activations import F32 as F32_LAYOUT
from llmrun.cpu_kernels.jit import device
from llmrun.cpu_kernels.memory import load_f16, load_f32, load_u16, store_f32, store_u32
from llmrun.cpu_kernels.panel_format import PanelFormat
from llmrun.cpu_kernels.simd import Emitter, V


def _products(s: Emitter, acc: list[V], weights: V, x: V) -> list[V]:
    return [s.fma(weights, s.broadcast_f32(x + 4 * t), a) for t, a in enumerate(acc)]


def _dot_f32(s: Emitter, acc: list[V], w: V, x: V) -> list[V]:
    return _products(s, acc, s.load_f32(w), x)


def _dot_f16(s: Emitter, acc: list[V], w: V, x: V) -> list[V]:
    return _products(s, acc, s.load_f16(w), x)


def _dot_bf16(s: Emitter, acc: list[V], w: V, x: V) -> list[V]:
    return _products(s, acc, s.load_bf16(w), x)


@device
def _dequantise_f32(source, target):
    store_f32(target, load_f32(source))


@device
def _dequantise_f16(source, target):
    store_f32(target, load_f16(source))


@device
def _dequantise_bf16(source, target):
    store_u32(target, load_u16(source) << 16)


F32 = PanelFormat("F32", 1, 4, F32_LAYOUT, ((0, 1),), _dot_f32, _dequantise_f32)
F16 = PanelFormat("F16", 1, 2, F32_LAYOUT, ((0, 0),), _dot_f16, _dequantise_f16)
BF16 = PanelFormat("BF16", 1, 2, F32_LAYOUT, ((0, 0),), _dot_bf16, _dequantise_bf16)
