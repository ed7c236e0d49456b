"""Weights from the file into panels, and rows of the embedding table as floats."""

from collections.abc import Callable

import numpy as np

from llmrun.cpu_kernels.fields import EMBED, PACK
from llmrun.cpu_kernels.isa import Isa
from llmrun.cpu_kernels.jit import device
from llmrun.cpu_kernels.memory import load_f32, load_i32, load_u16, load_u32, load_word, store_f32, store_u16, store_u32
from llmrun.cpu_kernels.panel_format import PanelFormat
from llmrun.cpu_kernels.share import share


@device
def bit_planes(word):
    """Bit 4 s + i of the word to bit s of byte i, for eight steps s: the fifth bits in the order of the products."""
    planes = np.uint32(0)
    for step in range(8):
        nibble = (word >> (4 * step)) & 15
        for i in range(4):
            planes |= ((nibble >> i) & 1) << (8 * i + step)
    return planes


def build_pack(isa: Isa, panel: PanelFormat) -> Callable:
    """The kernel that packs a matrix of one format."""
    rows, block_bytes = isa.lanes, panel.block_bytes
    offsets = tuple(offset for offset, _ in panel.fields)
    words = tuple(n for _, n in panel.fields)
    bit_plane_field = -1 if panel.bit_plane_field is None else panel.bit_plane_field

    half_bytes, word_bytes = rows * panel.half_bytes, rows * panel.word_bytes

    @device
    def pack_block(source, h, w, row):
        """The block of row `row` of a panel."""
        for f in range(len(words)):
            if words[f] == 0:
                store_u16(h + 2 * row, load_u16(source + offsets[f]))
                h += 2 * rows
            for i in range(words[f]):
                word = load_u32(source + offsets[f] + 4 * i)
                store_u32(w + 4 * row, bit_planes(word) if f == bit_plane_field else word)
                w += 4 * rows

    def pack(op, thread, n_threads):
        n_rows, n_blocks = load_word(op + PACK.n_rows), load_word(op + PACK.n_blocks)
        first, last = share((n_rows + rows - 1) // rows, thread, n_threads)
        for row in range(first * rows, min(last * rows, n_rows)):
            source = load_word(op + PACK.source) + row * n_blocks * block_bytes
            h = load_word(op + PACK.target) + (row // rows) * load_word(op + PACK.panel_bytes)
            w = h + load_word(op + PACK.words)
            for b in range(n_blocks):
                pack_block(source + b * block_bytes, h + b * half_bytes, w + b * word_bytes, row % rows)

    return pack


def build_embed(panel: PanelFormat) -> Callable:
    """The kernel that reads rows of an embedding table of one format."""
    dequantise, block_size, block_bytes = panel.dequantise, panel.block_size, panel.block_bytes

    def embed(op, thread, n_threads):
        n_tokens, n_blocks = load_word(load_word(op + EMBED.n_tokens)), load_word(op + EMBED.n_blocks)
        scale = load_f32(op + EMBED.scale)
        first, last = share(n_tokens, thread, n_threads)
        for t in range(first, last):
            token = load_i32(load_word(op + EMBED.tokens) + 4 * t)
            source = load_word(op + EMBED.table) + token * load_word(op + EMBED.row_bytes)
            out = load_word(op + EMBED.out) + t * load_word(op + EMBED.out_stride)
            for b in range(n_blocks):
                dequantise(source + b * block_bytes, out + 4 * b * block_size)
            for i in range(n_blocks * block_size):
                store_f32(out + 4 * i, scale * load_f32(out + 4 * i))

    return embed
