"""How the inputs of a matrix product lie in memory: quantised to two bytes a value, in groups of columns.

A column is one token's activation vector. Columns stand in groups of 8, 4, 2 or 1 (`group_width`), so that a register
tile finds all that it needs at fixed distances. A group of G columns is a run of records, one a block of weights:

    q32   32 weights:   G x 32 int8 high | G x 32 int8 low | G f32 scale | G f32 scale x sum |
                        G i32 minus sum                                                              76 G bytes
    q256  256 weights:  G x 256 int8 high | G x 256 int8 low | G f32 scale |
                        G x 16 i32 minus sums of 16 | G x 8 f32 sums of 32                           612 G bytes
    f32   1 weight:     G f32                                                                        4 G bytes

A value is scale x (256 high + low). One byte would do for speed alone, but its rounding is what separates a runner
from the exact result (a KL divergence of 3e-3 to 5e-3 on small models, with the top token changed at every 30th
position), and the second byte is nearly free wherever reading the weights takes the time.

The group that begins at column t begins t x (bytes of a column) behind the first.
"""

from dataclasses import dataclass

from llmrun.cpu_kernels.simd import Emitter, V


@dataclass(frozen=True)
class Layout:
    """A kind of activation record: weights covered and bytes taken, for each column."""

    name: str
    block_size: int
    block_bytes: int

    def column_bytes(self, n: int) -> int:
        """Bytes of one column of n values."""
        assert n % self.block_size == 0, (self.name, n)
        return n // self.block_size * self.block_bytes


Q32 = Layout("q32", 32, 76)
Q256 = Layout("q256", 256, 612)
F32 = Layout("f32", 1, 4)
LAYOUTS = {layout.name: layout for layout in (Q32, Q256, F32)}


class Record:
    """Reads a record of G columns at an address, while a kernel is compiled."""

    def __init__(self, s: Emitter, address: V, columns: int):
        self.s, self.address, self.columns = s, address, columns


class Q32Record(Record):
    """Reads a q32 record."""

    def high(self, t: int, step: int) -> V:
        """The high bytes of values 4 x step to 4 x step + 3 of column t, in every lane."""
        return self.s.broadcast_bytes(self.address + (32 * t + 4 * step))

    def low(self, t: int, step: int) -> V:
        """The low bytes of the same values."""
        return self.s.broadcast_bytes(self.address + (32 * self.columns + 32 * t + 4 * step))

    def scale(self, t: int) -> V:
        """The scale of column t."""
        return self.s.broadcast_f32(self.address + (64 * self.columns + 4 * t))

    def scaled_sum(self, t: int) -> V:
        """The scale times the sum of the values of column t."""
        return self.s.broadcast_f32(self.address + (68 * self.columns + 4 * t))

    def negative_sum(self, t: int) -> V:
        """Minus the sum of the values of column t."""
        return self.s.broadcast_i32(self.address + (72 * self.columns + 4 * t))


class Q256Record(Record):
    """Reads a q256 record."""

    def high(self, t: int, step: int) -> V:
        """The high bytes of values 4 x step to 4 x step + 3 of column t, in every lane."""
        return self.s.broadcast_bytes(self.address + (256 * t + 4 * step))

    def low(self, t: int, step: int) -> V:
        """The low bytes of the same values."""
        return self.s.broadcast_bytes(self.address + (256 * self.columns + 256 * t + 4 * step))

    def scale(self, t: int) -> V:
        """The scale of column t."""
        return self.s.broadcast_f32(self.address + (512 * self.columns + 4 * t))

    def negative_sum(self, t: int, sixteenth: int) -> V:
        """Minus the sum of sixteen values of column t."""
        return self.s.broadcast_i32(self.address + (516 * self.columns + 64 * t + 4 * sixteenth))

    def sum(self, t: int, eighth: int) -> V:
        """The sum of 32 values of column t, as a float."""
        return self.s.broadcast_f32(self.address + (580 * self.columns + 32 * t + 4 * eighth))
