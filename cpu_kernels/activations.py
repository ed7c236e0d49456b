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
