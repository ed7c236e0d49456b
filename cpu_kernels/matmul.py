"""Matrix products of packed weights with quantised activations: out[t] = W x[t], or out[t] += W x[t].

One kernel serves a single token and a prompt. Each panel of rows is multiplied with groups of up to `Isa.columns`
columns; lane = row, so no sum ever crosses lanes, and every product runs through the same float operations whatever
the number of columns.
"""

from collections.abc import Callable

from numba import types

from llmrun.cpu_kernels import simd
from llmrun.cpu_kernels.fields import MATMUL
from llmrun.cpu_kernels.group import group_functions
from llmrun.cpu_kernels.isa import Isa
from llmrun.cpu_kernels.jit import device
from llmrun.cpu_kernels.memory import load_word
from llmrun.cpu_kernels.panel_format import PanelFormat
from llmrun.cpu_kernels.share import share
from llmrun.cpu_kernels.simd import INTP


def build_matmul(isa: Isa, panel: PanelFormat) -> Callable:
    """The kernel for weights of one format."""
    products = [_build_product(isa, panel, 1 << i) for i in range(isa.columns.bit_length())]
    product1, product2 = products[0], products[1]
    product4 = products[2] if len(products) > 2 else product2
    product8 = products[3] if len(products) > 3 else product4
    width, _ = group_functions(isa)
    panel_bytes, column_bytes = panel.block_bytes * isa.lanes, panel.layout.block_bytes
    row_bytes = 4 * isa.lanes

    def matmul(op, thread, n_threads):
        n_tokens = load_word(load_word(op + MATMUL.n_tokens))
        n_blocks = load_word(op + MATMUL.n_blocks)
        stride = load_word(op + MATMUL.out_stride)
        accumulate = load_word(op + MATMUL.accumulate)
        first, last = share(load_word(op + MATMUL.n_panels), thread, n_threads)
        for p in range(first, last):
            w = load_word(op + MATMUL.weights) + p * n_blocks * panel_bytes
            x = load_word(op + MATMUL.x)
            out = load_word(op + MATMUL.out) + p * row_bytes
            t = 0
            while t < n_tokens:
                n = width(n_tokens - t)
                if n == 8:
                    product8(w, x, n_blocks, out, stride, accumulate)
                elif n == 4:
                    product4(w, x, n_blocks, out, stride, accumulate)
                elif n == 2:
                    product2(w, x, n_blocks, out, stride, accumulate)
                else:
                    product1(w, x, n_blocks, out, stride, accumulate)
                x += n * n_blocks * column_bytes
                out += n * stride
                t += n

    return matmul


def _build_product(isa: Isa, panel: PanelFormat, columns: int) -> Callable:
    """One panel times one group of columns."""
    emitted, tile = simd.emitter_for(isa), simd.tile(isa.lanes, columns)
    panel_bytes, record_bytes = panel.block_bytes * isa.lanes, panel.layout.block_bytes * columns

    @emitted(tile)
    def zeros(s):
        return [s.zero_f32()] * columns

    @emitted(tile, tile, INTP, INTP)
    def dot(s, acc, w, x):
        return panel.dot(s, acc, w, x)

    @emitted(types.void, INTP, INTP, tile)
    def store(s, out, stride, acc):
        for a in acc:
            s.store(out, a)
            out = out + stride

    @emitted(types.void, INTP, INTP, tile)
    def add(s, out, stride, acc):
        for a in acc:
            s.store(out, s.load_f32(out) + a)
            out = out + stride

    @device
    def product(w, x, n_blocks, out, stride, accumulate):
        acc = zeros()
        for _ in range(n_blocks):
            acc = dot(acc, w, x)
            w += panel_bytes
            x += record_bytes
        if accumulate:
            add(out, stride, acc)
        else:
            store(out, stride, acc)

    return product
