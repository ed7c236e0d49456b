"""Kernels' view of F32, F16 and BF16: products in float32, one weight after the other."""

from llmrun.cpu_kernels.jit import device
from llmrun.cpu_kernels.memory import load_f16, load_f32, load_u16, store_f32, store_u32
from llmrun.cpu_kernels.panel_format import PanelFormat
from llmrun.cpu_kernels.simd import Emitter
from llmrun.cpu_kernels.vector import V


def _f32(s: Emitter, h: V, w: V) -> V:
    del h
    return s.load_f32(w)


def _f16(s: Emitter, h: V, w: V) -> V:
    del w
    return s.load_f16(h)


def _bf16(s: Emitter, h: V, w: V) -> V:
    del w
    return s.load_bf16(h)


@device
def _dequantise_f32(source, target):
    store_f32(target, load_f32(source))


@device
def _dequantise_f16(source, target):
    store_f32(target, load_f16(source))


@device
def _dequantise_bf16(source, target):
    store_u32(target, load_u16(source) << 16)


F32 = PanelFormat("F32", 1, 4, ((0, 1),), _dequantise_f32, weights=_f32)
F16 = PanelFormat("F16", 1, 2, ((0, 0),), _dequantise_f16, weights=_f16)
BF16 = PanelFormat("BF16", 1, 2, ((0, 0),), _dequantise_bf16, weights=_bf16)
