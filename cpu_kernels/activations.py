"""How the inputs of a matrix product lie in memory: quantised to bytes, in groups of columns.

A column is one token's activation vector. Columns stand in groups of 8, 4, 2 or 1 (`group.py`), so that a register
tile finds all that it needs at fixed distances. A group of G columns is a run of records:

    q16    32 values:   G x 32 int8 | G x 2 f32 scales | G x 2 i32 -128 x sums | G f32 sum       52 G bytes
    f32    1 value:     G f32                                                                      4 G bytes

A value is its byte times the scale of its sixteen neighbours. Other runners have one scale for 32 values or for 256;
half as many values to a scale halve the error that a product of quantised weights makes (docs/quality.md).

The group that begins at column t begins t x (bytes of a column) behind the first.
"""

from dataclasses import dataclass

from llmrun.cpu_kernels.simd import Emitter
from llmrun.cpu_kernels.vector import FLOAT, I8, I32, V


@dataclass(frozen=True)
class Layout:
    """A kind of activation record: values covered and bytes taken, for each column."""

    name: str
    block_size: int
    block_bytes: int

    def column_bytes(self, n: int) -> int:
        """Bytes of one column of n values."""
        assert n % self.block_size == 0, (self.name, n)
        return n // self.block_size * self.block_bytes


Q16 = Layout("q16", 32, 52)
F32 = Layout("f32", 1, 4)
LAYOUTS = {layout.name: layout for layout in (Q16, F32)}


class Q16Record:
    """Reads a q16 record of G columns at an address, while a kernel is compiled."""

    def __init__(self, s: Emitter, address: V, columns: int):
        self.s, self.address, self.columns = s, address, columns

    def bytes(self, t: int, step: int) -> V:
        """Values 4 x step to 4 x step + 3 of column t, in every lane."""
        word = self.s.broadcast_nth(I32, self.address + 32 * t, step)
        return self.s.bitcast(word, I8, 4 * self.s.lanes)

    def sixteen_bytes(self, t: int, half: int) -> V:
        """Values 16 x half to 16 x half + 15 of column t."""
        return self.s.load(I8, self.address + (32 * t + 16 * half), 16)

    def scale(self, t: int, half: int) -> V:
        """The scale of sixteen values of column t."""
        return self.s.broadcast_nth(FLOAT, self.address + 32 * self.columns, 2 * t + half)

    def bias(self, t: int, half: int) -> V:
        """-128 times the sum of the bytes of sixteen values of column t."""
        return self.s.broadcast_i32(self.address + (40 * self.columns + 8 * t + 4 * half))

    def sum(self, t: int) -> V:
        """The sum of the 32 values of column t, scales included."""
        return self.s.broadcast_f32(self.address + (48 * self.columns + 4 * t))
