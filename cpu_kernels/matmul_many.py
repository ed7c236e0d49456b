"""Matrix products with many columns: weights are unpacked to bytes first, and multiplied in wide register tiles.

A register tile of one panel and eight columns loads more than the processor can while it multiplies, so a tile has
several panels and fewer columns here. `Isa.panels` panels are unpacked side by side, a few groups of weights of each,
so that they stay in the first cache while all columns pass; the sums wait in the second for the next groups:

    for some panels of the thread's part            as many as their sums stay in the second cache
        for some groups of weights
            for `Isa.panels` panels                 unpack their groups
                for all columns                     multiply them, a register tile at a time

Meanwhile memory is asked for the panels that follow, evenly: unpacking and multiplying both do their part.
"""

from collections.abc import Callable

from numba import types

from llmrun.cpu_kernels import simd
from llmrun.cpu_kernels.fields import MATMUL
from llmrun.cpu_kernels.isa import Isa
from llmrun.cpu_kernels.jit import device
from llmrun.cpu_kernels.matmul_scratch import SECOND_CACHE_BYTES, UNPACKED_GROUPS
from llmrun.cpu_kernels.memory import load_word
from llmrun.cpu_kernels.panel_format import PanelFormat
from llmrun.cpu_kernels.register_tile import build_tile_ends, build_tile_memory
from llmrun.cpu_kernels.vector import INTP, f32_tile
from llmrun.cpu_kernels.weight_group import load_unpacked, multiply, store_unpacked


def build_many(isa: Isa, panel: PanelFormat, few: Callable) -> Callable:
    """`many(op, thread, first, last, begin, n_columns, after)`: panels [first, last), the columns from `begin` on.

    What is left over after the widest groups of columns goes to `few`, which takes the same arguments.
    """
    kind = panel.kind
    assert kind is not None
    unpack, product, rows, widest = _build_unpack(isa, panel), _build_product(isa, panel), isa.panels, isa.columns
    group_bytes, x_bytes, row_bytes = kind.unpacked_bytes(isa.lanes), panel.layout.block_bytes, 4 * isa.lanes
    groups_a_block, tile_columns = panel.block_size // 32, isa.tile_columns
    blocks_at_once = UNPACKED_GROUPS // groups_a_block
    lines, unpack_lines = _lines_of_group(isa, panel), _lines_of_block(isa, panel)

    @device
    def spacing_of(n_panels, n_blocks, n_columns, n_bytes):
        """How far apart the lines are that are asked for while so many panels are worked on, to cover n bytes."""
        n_tiles = n_panels // rows * n_columns // tile_columns
        return n_bytes // (lines * groups_a_block * n_blocks * n_tiles + unpack_lines * n_blocks * n_panels) + 1

    @device
    def many(op, thread, first, last, begin, n_columns, after):
        n_blocks, panel_bytes = load_word(op + MATMUL.n_blocks), load_word(op + MATMUL.panel_bytes)
        end = n_columns - n_columns % widest
        unpacked = load_word(op + MATMUL.scratch) + thread * load_word(op + MATMUL.scratch_stride)
        sums, sum_bytes = unpacked + rows * UNPACKED_GROUPS * group_bytes, (end - begin) * row_bytes
        at_once = rows
        if (end - begin) * n_blocks * groups_a_block * x_bytes > SECOND_CACHE_BYTES:
            at_once *= max(1, SECOND_CACHE_BYTES // (rows * sum_bytes))
        for p in range(first, last, at_once):
            n_panels = min(at_once, last - p)
            weights = load_word(op + MATMUL.weights) + p * panel_bytes
            ahead = weights + n_panels * panel_bytes if p + n_panels < last else after
            spacing = spacing_of(n_panels, n_blocks, end - begin, n_panels * panel_bytes)
            for b in range(0, n_blocks, blocks_at_once):
                n, i = min(blocks_at_once, n_blocks - b), 0
                while i < n_panels:
                    n_beside = rows if i + rows <= n_panels else 1
                    for j in range(n_beside):
                        w, target = weights + (i + j) * panel_bytes, unpacked + j * group_bytes
                        ahead = unpack(op, w, b, n, target, n_beside * group_bytes, ahead, spacing)
                    out = load_word(op + MATMUL.out) + (p + i) * row_bytes if b + n == n_blocks else 0
                    kept = sums + i * sum_bytes
                    ahead = product(op, unpacked, n_beside, b, n, begin, end, kept, out, ahead, spacing)
                    i += n_beside
            few(op, thread, p, p + n_panels, end, n_columns, after)

    return many


def _lines_of_group(isa: Isa, panel: PanelFormat) -> int:
    """Cache lines that a register tile asks for with each group: enough for the fewest of many columns.

    With tiles of one panel, the time in which it is unpacked is enough to ask for the next.
    """
    if isa.panels == 1:
        return 0
    tiles = panel.many_columns // isa.tile_columns
    return -(-isa.panels * isa.lanes * panel.block_bytes * 32 // panel.block_size // 64 // tiles)


def _lines_of_block(isa: Isa, panel: PanelFormat) -> int:
    """Cache lines that unpacking asks for with each block: all of them, or a third where tiles ask as well."""
    return -(-isa.lanes * panel.block_bytes // 64 // (1 if isa.panels == 1 else 3))


def _build_product(isa: Isa, panel: PanelFormat) -> Callable:
    """`product(op, w, n_panels, b, n, begin, end, kept, out, ahead, spacing)`: unpacked panels times all columns.

    The panels, 1 or `Isa.panels`, hold n blocks from b on. Sums go on from those of the blocks before, which are
    `kept`; where all blocks are done they are written to `out`, which is 0 before. The new `ahead` is returned.
    """
    rows, widest, columns, x_bytes = isa.panels, isa.columns, isa.tile_columns, panel.layout.block_bytes
    tile = _build_tile(isa, panel, rows, columns)
    single = _build_tile(isa, panel, 1, widest) if rows > 1 else tile
    groups_a_block, row_bytes = panel.block_size // 32, 4 * isa.lanes

    @device
    def product(op, w, n_panels, b, n, begin, end, kept, out, ahead, spacing):
        n_groups, first = load_word(op + MATMUL.n_blocks) * groups_a_block, b * groups_a_block
        stride = load_word(op + MATMUL.out_stride)
        for t in range(begin, end, widest):
            x = load_word(op + MATMUL.x) + (t * n_groups + first * widest) * x_bytes
            if n_panels == 1:
                ahead = single(op, w, x, first, n * groups_a_block, kept, out, t * stride, ahead, spacing)
                kept += widest * row_bytes
            else:
                for c in range(t, t + widest, columns):
                    ahead = tile(op, w, x, first, n * groups_a_block, kept, out, c * stride, ahead, spacing)
                    x += columns * x_bytes
                    kept += rows * columns * row_bytes
        return ahead

    return product


def _build_tile(isa: Isa, panel: PanelFormat, panels: int, columns: int) -> Callable:
    """`tile(op, w, x, first, n, kept, out, offset, ahead, spacing)`: n groups of some panels times some columns.

    `first` is the number of groups before. `kept` and `out` are as in `_build_product`, `offset` is added to `out`.
    """
    kind, lines = panel.kind, _lines_of_group(isa, panel)
    assert kind is not None
    emitted, accumulators = simd.emitter_for(isa), f32_tile(isa.lanes, panels * columns)
    (zeros, write), (read, keep) = build_tile_ends(isa, panels, columns), build_tile_memory(isa, panels * columns)
    weight_offset, group_bytes = simd.cheap_offset(isa, kind.offset), kind.unpacked_bytes(isa.lanes)
    x_bytes = panel.layout.block_bytes * isa.columns

    @emitted(accumulators, accumulators, INTP, INTP, INTP, INTP)
    def add_group(s, acc, w, x, ahead, spacing):
        s.prefetch_lines(ahead, 0, lines, spacing)
        groups = [load_unpacked(s, w + p * group_bytes, kind) for p in range(panels)]
        return multiply(s, acc, groups, weight_offset, x)

    @device
    def tile(op, w, x, first, n, kept, out, offset, ahead, spacing):
        acc = read(kept) if first else zeros()
        for _ in range(n):
            acc = add_group(acc, w, x, ahead, spacing)
            ahead += lines * spacing
            w += panels * group_bytes
            x += x_bytes
        if out:
            write(out + offset, load_word(op + MATMUL.out_stride), acc, load_word(op + MATMUL.accumulate))
        else:
            keep(kept, acc)
        return ahead

    return tile


def _build_unpack(isa: Isa, panel: PanelFormat) -> Callable:
    """`unpack(op, panel, b, n, target, stride, ahead, spacing)`: n blocks of a panel from b on to bytes and floats.

    The groups are `stride` bytes apart. The new `ahead` is returned.
    """
    emitted, kind, groups = simd.emitter_for(isa), panel.kind, panel.groups
    assert kind is not None
    assert groups is not None
    h_bytes, w_bytes = panel.half_bytes * isa.lanes, panel.word_bytes * isa.lanes
    groups_a_block, lines = panel.block_size // 32, _lines_of_block(isa, panel)

    @emitted(types.void, INTP, INTP, INTP, INTP, INTP, INTP)
    def unpack_block(s, h, w, target, stride, ahead, spacing):
        for i, group in enumerate(groups(s, h, w)):
            s.prefetch_lines(ahead, i * lines // groups_a_block, (i + 1) * lines // groups_a_block, spacing)
            store_unpacked(s, target + stride * i, group, kind)

    @device
    def unpack(op, panel, b, n, target, stride, ahead, spacing):
        h, w = panel + b * h_bytes, panel + load_word(op + MATMUL.words) + b * w_bytes
        for _ in range(n):
            unpack_block(h, w, target, stride, ahead, spacing)
            h += h_bytes
            w += w_bytes
            target += groups_a_block * stride
            ahead += lines * spacing
        return ahead

    return unpack
