"""Weights in panels: the table row of a block format on the CPU.

A panel is as many rows of a matrix as a vector has lanes (R). Each field of the file's blocks stands R times side by
side, so that one load brings the same field of R rows. The halfs of all blocks come first and the words of all blocks
behind them, or half of the loads would cross cache lines:

    Q4_1 in the file, one row:    d m q0 q1 q2 q3, d m q0 q1 q2 q3, ...     (halfs, and words of eight 4-bit weights)
    Q4_1 in a panel:              d x R | m x R, d x R | m x R, ...
                                  q0 x R | q1 x R | q2 x R | q3 x R, q0 x R | q1 x R | q2 x R | q3 x R, ...

A panel takes the bytes of its rows in the file, both parts rounded up to cache lines.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from llmrun.cpu_kernels.activations import F32, Q16, Layout
from llmrun.cpu_kernels.simd import Emitter, packed_offset
from llmrun.cpu_kernels.vector import V
from llmrun.cpu_kernels.weight_group import GroupKind, WeightGroup, multiply

FIRST_CACHE_BYTES = 4 << 10
"""How far ahead of their use weights are brought from the second cache to the first."""


@dataclass(frozen=True)
class PanelFormat:
    """What the kernels need to know of a block format.

    `fields` lists the file's block in the order of the panel's: (offset, number of 4-byte words), or (offset, 0) for a
    2-byte field. `dequantise(source, target)` writes the weights of one block of the file as floats.

    Weights that are multiplied as bytes have `groups(s, h, w)`, which gives those of the block with its halfs at `h`
    and its words at `w` 32 at a time, and say of which `kind` they are; weights that are multiplied as floats have
    `weights(s, h, w)` instead, one a row.
    """

    name: str
    block_size: int
    block_bytes: int
    fields: tuple[tuple[int, int], ...]
    dequantise: Callable
    groups: Callable[[Emitter, V, V], Iterator[WeightGroup]] | None = None
    kind: GroupKind | None = None
    weights: Callable[[Emitter, V, V], V] | None = None
    bit_plane_field: int | None = None  # the field whose 32 bits are spread with `bit_planes` while packing
    many_columns: int = 16  # from so many on, panels are unpacked before they are multiplied

    @property
    def half_bytes(self) -> int:
        """Bytes of a block's halfs in one row."""
        return 2 * sum(n_words == 0 for _, n_words in self.fields)

    @property
    def word_bytes(self) -> int:
        """Bytes of a block's words in one row."""
        return self.block_bytes - self.half_bytes

    @property
    def layout(self) -> Layout:
        """The layout of the activations that it is multiplied with."""
        return Q16 if self.groups else F32

    def dot(self, s: Emitter, acc: list[V], h: V, w: V, x: V, ahead: V, spacing: V | int) -> list[V]:
        """Add the products of the block at `h` and `w` with each column of the records at `x`.

        The order of float operations does not depend on the number of columns. As many lines as a block has are asked
        for from `ahead` on, `spacing` bytes apart.
        """
        if self.groups is None:
            assert self.weights is not None
            s.prefetch_lines(ahead, 0, -(-self.block_bytes * s.lanes // 64), spacing)
            weights = self.weights(s, h, w)
            return [s.fma(weights, s.broadcast_f32(x + 4 * t), a) for t, a in enumerate(acc)]
        assert self.kind is not None
        offset = packed_offset(s.isa, self.kind.offset)
        n_bytes = self.block_bytes * s.lanes * 32 // self.block_size
        for i, group in enumerate(self.groups(s, h, w)):
            first, last = i * n_bytes // 64, (i + 1) * n_bytes // 64
            s.prefetch_lines(ahead, first, last, spacing)
            s.prefetch_lines(w + FIRST_CACHE_BYTES, first, last, 64, first_cache=True)
            acc = multiply(s, acc, [group], offset, x)
            x = x + Q16.block_bytes * len(acc)
        return acc
