"""How the inputs of a matrix product lie in memory: quantised to bytes, in groups of columns.

A column is one token's activation vector. Columns stand in groups of 8, 4, 2 or 1 (`group.py`), so that a register
tile finds all that it needs at fixed distances. A group of G columns is a run of records, G of them side by side:

    q16    32 values:   32 int8 | 2 f32 scales | f32 sum | 4 bytes unused | 2 i32 starts | 2 f32 ends      64 bytes
    f32    1 value:     f32                                                                                 4 bytes

A value is its byte times the scale of its sixteen neighbours. Other runners have one scale for 32 values or for 256;
half as many values to a scale halve the error that a product of quantised weights makes (docs/quality.md).

Starts and ends take the conversion of integer sums to floats out of the products. A sum of products that starts from
the bits of the float 1.5 x 2**23 is, read as a float, 1.5 x 2**23 + sum; times the scale, plus the end, which is
-1.5 x 2**23 x scale, it is sum x scale, rounded once. (Scales have 22 bits, so that ends are exact.) A start also holds
-128 times the sum of its sixteen bytes, for weights that are unsigned bytes around 128.

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


Q16 = Layout("q16", 32, 64)
F32 = Layout("f32", 1, 4)
LAYOUTS = {layout.name: layout for layout in (Q16, F32)}
