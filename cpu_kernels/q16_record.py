"""A record of quantised activations, as kernels read it; `activations.py` describes the layout."""

from llmrun.cpu_kernels.simd import Emitter
from llmrun.cpu_kernels.vector import FLOAT, I8, I32, V


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
