"""Matrix products of packed weights with activations: out[t] = W x[t], or out[t] += W x[t].

A panel of rows is multiplied with groups of up to `Isa.columns` columns; lane = row, so no sum ever crosses lanes. For
few columns, weights are unpacked in registers, once a group; for many, they are unpacked to memory first
(`matmul_many.py`). Both ways take every product through the same float operations in the same order.
"""

from collections.abc import Callable

from llmrun.cpu_kernels import simd
from llmrun.cpu_kernels.fields import MATMUL
from llmrun.cpu_kernels.group import group_functions
from llmrun.cpu_kernels.isa import Isa
from llmrun.cpu_kernels.jit import device
from llmrun.cpu_kernels.matmul_many import build_many
from llmrun.cpu_kernels.memory import fetch_add, load_word, store_atomic
from llmrun.cpu_kernels.next_weights import next_weights
from llmrun.cpu_kernels.panel_format import PanelFormat
from llmrun.cpu_kernels.register_tile import build_tile_ends
from llmrun.cpu_kernels.share import share_values
from llmrun.cpu_kernels.vector import INTP, f32_tile

TAKEN_PART = 8
"""Of the panels of a thread, the last eighth are taken one by one."""


def build_matmul(isa: Isa, panel: PanelFormat) -> Callable:
    """The kernel for weights of one format."""
    few = _build_few(isa, panel)
    many = build_many(isa, panel, few) if panel.groups else few
    balanced = _build_balanced(isa, few)
    lanes, many_columns = isa.lanes, panel.many_columns

    def matmul(op, thread, n_threads):
        n_columns = load_word(load_word(op + MATMUL.n_columns))
        n_panels = load_word(op + MATMUL.n_panels)
        first, last = share_values(n_panels * lanes, thread, n_threads)  # as in `gated`, which needs no barrier then
        first, last = first // lanes, last // lanes
        if n_columns >= many_columns:
            many(op, thread, first, last, 0, n_columns, next_weights(op, thread))
        elif load_word(op + MATMUL.taken):
            balanced(op, thread, n_threads, n_columns)
        else:
            few(op, thread, first, last, 0, n_columns, next_weights(op, thread))

    return matmul


def _build_balanced(isa: Isa, few: Callable) -> Callable:
    """`balanced(op, thread, n_threads, n_columns)`: a thread takes the last panels of its part one by one.

    When it is done it takes those that are left of the others', because memory is never shared evenly: with fixed
    parts, the thread that is done first leaves the other alone with what one processor can read.
    """
    lanes = isa.lanes

    @device
    def part(op, thread, n_threads):
        first, last = share_values(load_word(op + MATMUL.n_panels) * lanes, thread, n_threads)
        first, last = first // lanes, last // lanes
        return first, last - (last - first) // TAKEN_PART, last

    @device
    def balanced(op, thread, n_threads, n_columns):
        weights, panel_bytes = load_word(op + MATMUL.weights), load_word(op + MATMUL.panel_bytes)
        first, tail, _ = part(op, thread, n_threads)
        few(op, thread, first, tail, 0, n_columns, weights + tail * panel_bytes)
        for i in range(n_threads):
            owner = (thread + i) % n_threads
            counter = load_word(op + MATMUL.taken) + 64 * owner
            _, tail, last = part(op, owner, n_threads)
            while True:
                n_taken = fetch_add(counter, 1)
                p = tail + n_taken
                if p >= last:
                    if p == last + n_threads - 1:  # every thread comes here once, so nobody will come again
                        store_atomic(counter, 0)
                    break
                after = weights + (p + 1) * panel_bytes if p + 1 < last else next_weights(op, thread)
                few(op, thread, p, p + 1, 0, n_columns, after)

    return balanced


def _build_few(isa: Isa, panel: PanelFormat) -> Callable:
    """`few(op, thread, first, last, t, n_columns, after)`: the panels [first, last) with the columns from t on.

    `after` is the address of the weights that the thread reads next.
    """
    products = [_build_product(isa, panel, 1 << i) for i in range(isa.columns.bit_length())]
    product1, product2 = products[0], products[1]
    product4 = products[2] if len(products) > 2 else product2
    product8 = products[3] if len(products) > 3 else product4
    width, _ = group_functions(isa)
    widest = isa.columns
    row_bytes, x_bytes = 4 * isa.lanes, panel.block_size // panel.layout.block_size * panel.layout.block_bytes

    @device
    def few(op, thread, first, last, begin, n_columns, after):
        n_blocks, stride = load_word(op + MATMUL.n_blocks), load_word(op + MATMUL.out_stride)
        accumulate = load_word(op + MATMUL.accumulate)
        panel_bytes, words = load_word(op + MATMUL.panel_bytes), load_word(op + MATMUL.words)
        # Memory is asked for a panel ahead, because a processor's own prefetching stops at the end of each page, and as
        # evenly as can be: of several groups of all columns, each asks for a part of the panel.
        n_wide = max(1, (n_columns - begin) // widest)
        spacing, part = (63 + n_wide) // n_wide, panel_bytes // n_wide
        for p in range(first, last):
            w = load_word(op + MATMUL.weights) + p * panel_bytes
            follower = w + panel_bytes if p + 1 < last else after
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


def _build_product(isa: Isa, panel: PanelFormat, columns: int) -> Callable:
    """`product(h, w, x, n, out, stride, accumulate, ahead, spacing)`: a packed panel times one group of columns."""
    x_bytes = panel.layout.block_bytes * columns * (panel.block_size // panel.layout.block_size)
    h_bytes, w_bytes = panel.half_bytes * isa.lanes, panel.word_bytes * isa.lanes
    emitted, accumulators = simd.emitter_for(isa), f32_tile(isa.lanes, columns)
    zeros, write = build_tile_ends(isa, 1, columns)

    @emitted(accumulators, accumulators, INTP, INTP, INTP, INTP, INTP)
    def add_block(s, acc, h, w, x, ahead, spacing):
        return panel.dot(s, acc, h, w, x, ahead, spacing if columns == isa.columns else 64)

    @device
    def product(h, w, x, n, out, stride, accumulate, ahead, spacing):
        acc, step = zeros(), (h_bytes + w_bytes) * spacing // 64
        for _ in range(n):
            acc = add_block(acc, h, w, x, ahead, spacing)
            ahead += step
            h += h_bytes
            w += w_bytes
            x += x_bytes
        write(out, stride, acc, accumulate)

    return product
