"""The accumulators of a register tile before and after its products: floats of some panels, lane = row, by columns."""

from collections.abc import Callable

from numba import types

from llmrun.cpu_kernels import simd
from llmrun.cpu_kernels.isa import Isa
from llmrun.cpu_kernels.jit import device
from llmrun.cpu_kernels.vector import INTP, f32_tile


def build_tile_ends(isa: Isa, panels: int, columns: int) -> tuple[Callable, Callable]:
    """`zeros()` and `write(out, stride, acc, accumulate)`: accumulators before and after the products."""
    emitted, accumulators = simd.emitter_for(isa), f32_tile(isa.lanes, panels * columns)

    def places(out, stride):  # the accumulators are those of the first column with each panel, and so on
        return [(out + stride * t) + 4 * isa.lanes * p for t in range(columns) for p in range(panels)]

    @emitted(accumulators)
    def zeros(s):
        return [s.zero_f32()] * (panels * columns)

    @emitted(types.void, INTP, INTP, accumulators)
    def set_rows(s, out, stride, acc):
        for place, a in zip(places(out, stride), acc, strict=True):
            s.store(place, a)

    @emitted(types.void, INTP, INTP, accumulators)
    def add_rows(s, out, stride, acc):
        for place, a in zip(places(out, stride), acc, strict=True):
            s.store(place, s.load_f32(place) + a)

    @device
    def write(out, stride, acc, accumulate):
        if accumulate:
            add_rows(out, stride, acc)
        else:
            set_rows(out, stride, acc)

    return zeros, write


def build_tile_memory(isa: Isa, n: int) -> tuple[Callable, Callable]:
    """`read(address)` and `keep(address, acc)`: n accumulators in memory."""
    emitted, accumulators, n_bytes = simd.emitter_for(isa), f32_tile(isa.lanes, n), 4 * isa.lanes

    @emitted(accumulators, INTP)
    def read(s, address):
        return [s.load_f32(address + n_bytes * i) for i in range(n)]

    @emitted(types.void, INTP, accumulators)
    def keep(s, address, acc):
        for i, a in enumerate(acc):
            s.store(address + n_bytes * i, a)

    return read, keep
