"""Matrix products of packed weights with activations: out[t] = W x[t], or out[t] += W x[t].

A panel of rows is multiplied with groups of up to `Isa.columns` columns; lane = row, so no sum ever crosses lanes. For
few columns, weights are unpacked in registers, once a group. For many, panels are unpacked to bytes first, as many as
stay in the cache together, and every group of columns is read once for all of them. Both ways take every product
through the same float operations in the same order.
"""

from collections.abc import Callable

from numba import types

from llmrun.cpu_kernels import simd
from llmrun.cpu_kernels.fields import MATMUL
from llmrun.cpu_kernels.group import group_functions
from llmrun.cpu_kernels.isa import Isa
from llmrun.cpu_kernels.jit import device
from llmrun.cpu_kernels.memory import load_word
from llmrun.cpu_kernels.op import AHEAD, AHEAD_STRIDE
from llmrun.cpu_kernels.panel_format import PanelFormat
from llmrun.cpu_kernels.share import share_values
from llmrun.cpu_kernels.simd import Emitter
from llmrun.cpu_kernels.vector import INTP, V, f32_tile
from llmrun.cpu_kernels.weight_group import load_unpacked, multiply, store_unpacked

MANY_COLUMNS = 32
"""From so many columns on, panels are unpacked before they are multiplied."""


def build_matmul(isa: Isa, panel: PanelFormat) -> Callable:
    """The kernel for weights of one format."""
    few = _build_few(isa, panel)
    many = _build_many(isa, panel, few) if panel.groups else few
    lanes = isa.lanes

    def matmul(op, thread, n_threads):
        n_columns = load_word(load_word(op + MATMUL.n_columns))
        n_panels = load_word(op + MATMUL.n_panels)
        first, last = share_values(n_panels * lanes, thread, n_threads)  # as in `gated`, which needs no barrier then
        first, last = first // lanes, last // lanes
        if n_columns >= MANY_COLUMNS:
            many(op, thread, first, last, 0, n_columns)
        else:
            few(op, thread, first, last, 0, n_columns)

    return matmul


@device
def next_weights(op, thread):
    """Where a thread's weights of the next product begin, or any address where there is none."""
    return load_word(op + 8 * AHEAD) + thread * load_word(op + 8 * AHEAD_STRIDE)


def _build_few(isa: Isa, panel: PanelFormat) -> Callable:
    """`few(op, thread, first, last, t, n_columns)`: the panels [first, last) with the columns from t on."""
    products = [_build_product(isa, panel, 1 << i) for i in range(isa.columns.bit_length())]
    product1, product2 = products[0], products[1]
    product4 = products[2] if len(products) > 2 else product2
    product8 = products[3] if len(products) > 3 else product4
    width, _ = group_functions(isa)
    widest = isa.columns
    row_bytes, x_bytes = 4 * isa.lanes, panel.block_size // panel.layout.block_size * panel.layout.block_bytes

    @device
    def few(op, thread, first, last, begin, n_columns):
        n_blocks, stride = load_word(op + MATMUL.n_blocks), load_word(op + MATMUL.out_stride)
        accumulate = load_word(op + MATMUL.accumulate)
        panel_bytes, words = load_word(op + MATMUL.panel_bytes), load_word(op + MATMUL.words)
        # Memory is asked for a panel ahead, because a processor's own prefetching stops at the end of each page, and as
        # evenly as can be: of several groups of all columns, each asks for a part of the panel.
        n_wide = max(1, (n_columns - begin) // widest)
        spacing, part = (63 + n_wide) // n_wide, panel_bytes // n_wide
        for p in range(first, last):
            w = load_word(op + MATMUL.weights) + p * panel_bytes
            follower = w + panel_bytes if p + 1 < last else next_weights(op, thread)
            out = load_word(op + MATMUL.out) + p * row_bytes
            t = begin
            while t < n_columns:
                n = width(n_columns - t)
                x, o = load_word(op + MATMUL.x) + t * n_blocks * x_bytes, out + t * stride
                ahead = follower + (t - begin) // widest * part if t - begin < n_wide * widest else w
                if n == 8:
                    product8(w, w + words, x, n_blocks, o, stride, accumulate, ahead, spacing)
                elif n == 4:
                    product4(w, w + words, x, n_blocks, o, stride, accumulate, ahead, spacing)
                elif n == 2:
                    product2(w, w + words, x, n_blocks, o, stride, accumulate, ahead, spacing)
                else:
                    product1(w, w + words, x, n_blocks, o, stride, accumulate, ahead, spacing)
                t += n

    return few


def _build_many(isa: Isa, panel: PanelFormat, few: Callable) -> Callable:
    """The same for many columns; what is left over after the widest groups goes to `few`."""
    kind = panel.kind
    assert kind is not None
    unpack, widest = _build_unpack(isa, panel), isa.columns
    group_bytes, x_bytes = kind.unpacked_bytes(isa.lanes), panel.layout.block_bytes * widest
    offset = simd.cheap_offset(isa, kind.offset)

    def dot(s: Emitter, acc: list[V], h: V, w: V, x: V, ahead: V, spacing: V) -> list[V]:
        del h, ahead, spacing
        return multiply(s, acc, load_unpacked(s, w, kind), offset, x)

    product, row_bytes = _build_run(isa, widest, dot, 0, group_bytes, x_bytes), 4 * isa.lanes
    groups_a_block, column_bytes = panel.block_size // 32, panel.layout.block_bytes

    @device
    def many(op, thread, first, last, begin, n_columns):
        n_blocks, stride = load_word(op + MATMUL.n_blocks), load_word(op + MATMUL.out_stride)
        n_groups, accumulate = n_blocks * groups_a_block, load_word(op + MATMUL.accumulate)
        scratch = load_word(op + MATMUL.scratch) + thread * load_word(op + MATMUL.scratch_stride)
        at_once = max(1, load_word(op + MATMUL.scratch_stride) // (n_groups * group_bytes))
        end = n_columns - n_columns % widest
        for p in range(first, last, at_once):
            n_panels = min(at_once, last - p)
            for i in range(n_panels):
                w = load_word(op + MATMUL.weights) + (p + i) * load_word(op + MATMUL.panel_bytes)
                unpack(w, w + load_word(op + MATMUL.words), scratch + i * n_groups * group_bytes, n_blocks)
            for t in range(begin, end, widest):
                x = load_word(op + MATMUL.x) + t * n_groups * column_bytes
                out = load_word(op + MATMUL.out) + t * stride + p * row_bytes
                for i in range(n_panels):
                    w = scratch + i * n_groups * group_bytes
                    product(0, w, x, n_groups, out + i * row_bytes, stride, accumulate, 0, 0)
            few(op, thread, p, p + n_panels, end, n_columns)

    return many


def _build_product(isa: Isa, panel: PanelFormat, columns: int) -> Callable:
    """One packed panel times one group of columns."""
    x_bytes = panel.layout.block_bytes * columns * (panel.block_size // panel.layout.block_size)
    h_bytes, w_bytes = panel.half_bytes * isa.lanes, panel.word_bytes * isa.lanes

    return _build_run(isa, columns, panel.dot, h_bytes, w_bytes, x_bytes)


def _build_run(isa: Isa, columns: int, dot: Callable, h_bytes: int, w_bytes: int, x_bytes: int) -> Callable:
    """`product(h, w, x, n, out, stride, accumulate)`: `dot` over n blocks and records of so many bytes."""
    emitted, tile = simd.emitter_for(isa), f32_tile(isa.lanes, columns)

    @emitted(tile)
    def zeros(s):
        return [s.zero_f32()] * columns

    @emitted(tile, tile, INTP, INTP, INTP, INTP, INTP)
    def add_block(s, acc, h, w, x, ahead, spacing):
        return dot(s, acc, h, w, x, ahead, spacing if columns == isa.columns else 64)

    @emitted(types.void, INTP, INTP, tile)
    def set_rows(s, out, stride, acc):
        for a in acc:
            s.store(out, a)
            out = out + stride

    @emitted(types.void, INTP, INTP, tile)
    def add_rows(s, out, stride, acc):
        for a in acc:
            s.store(out, s.load_f32(out) + a)
            out = out + stride

    @device
    def product(h, w, x, n, out, stride, accumulate, ahead, spacing):
        acc, step = zeros(), (h_bytes + w_bytes) * spacing // 64
        for _ in range(n):
            acc = add_block(acc, h, w, x, ahead, spacing)
            ahead += step
            h += h_bytes
            w += w_bytes
            x += x_bytes
        if accumulate:
            add_rows(out, stride, acc)
        else:
            set_rows(out, stride, acc)

    return product


def _build_unpack(isa: Isa, panel: PanelFormat) -> Callable:
    """`unpack(h, w, target, n_blocks)`: one panel to bytes and floats."""
    emitted, kind, groups = simd.emitter_for(isa), panel.kind, panel.groups
    assert kind is not None
    assert groups is not None
    h_bytes, w_bytes = panel.half_bytes * isa.lanes, panel.word_bytes * isa.lanes
    target_bytes = kind.unpacked_bytes(isa.lanes) * (panel.block_size // 32)

    @emitted(types.void, INTP, INTP, INTP)
    def unpack_block(s, h, w, target):
        for i, group in enumerate(groups(s, h, w)):
            store_unpacked(s, target + i * kind.unpacked_bytes(s.lanes), group, kind)

    @device
    def unpack(h, w, target, n_blocks):
        for b in range(n_blocks):
            unpack_block(h + b * h_bytes, w + b * w_bytes, target + b * target_bytes)

    return unpack
