"""A record of quantised activations, as kernels read it; `activations.py` describes the layout."""

from llmrun.cpu_kernels.activations import Q16
from llmrun.cpu_kernels.simd import Emitter
from llmrun.cpu_kernels.vector import FLOAT, I8, I32, V


class Q16Record:
    """Reads the q16 records of some columns, which begin at an address, while a kernel is compiled."""

    def __init__(self, s: Emitter, address: V, columns: int):
        self.s, self.address, self.columns = s, address, columns

    def bytes(self, t: int, step: int) -> V:
        """Values 4 x step to 4 x step + 3 of column t, in every lane."""
        word = self.s.broadcast_nth(I32, self._column(t), step)
        return self.s.bitcast(word, I8, 4 * self.s.lanes)

    def sixteen_bytes(self, t: int, half: int) -> V:
        """Values 16 x half to 16 x half + 15 of column t."""
        return self.s.load(I8, self._column(t) + 16 * half, 16)

    def scale(self, t: int, half: int) -> V:
        """The scale of sixteen values of column t."""
        return self.s.broadcast_nth(FLOAT, self._column(t), 8 + half)

    def sum(self, t: int) -> V:
        """The sum of the 32 values of column t, scales included."""
        return self.s.broadcast_nth(FLOAT, self._column(t), 10)

    def start(self, t: int, half: int) -> V:
        """What their sum of products starts from, with unsigned weights around 128."""
        return self.s.broadcast_i32(self._column(t) + (48 + 4 * half))

    def end(self, t: int, half: int) -> V:
        """What takes the start away again, see `Emitter.scaled_sum`."""
        return self.s.broadcast_f32(self._column(t) + (56 + 4 * half))

    def _column(self, t: int) -> V:
        return self.address + Q16.block_bytes * t
