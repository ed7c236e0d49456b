"""Exact products of the bytes or nibbles of keys and values with integers of 16 bits."""

from llmrun.cpu_kernels import simd
from llmrun.cpu_kernels.isa import Isa
from llmrun.cpu_kernels.simd import Emitter
from llmrun.cpu_kernels.vector import I8, I16, V


class ExactProducts:
    """Four numbers of 8 or 4 bits times four integers, for each lane: by two byte products, or by two of 16 bits.

    The integers of four numbers take two words: their high bytes and their low bytes, or the first and third, and the
    second and fourth. Where only signed bytes can be multiplied, 128 is taken from unsigned ones, and low bytes are
    made signed. Nibbles are unsigned and suit every instruction. What they are multiplied with is signed, so its low
    bytes have seven bits.
    """

    def __init__(self, isa: Isa, bits: int):
        self.bits = bits
        self.low_bits = 8 if bits == 8 else 7
        self.largest = 127.0 * 2**self.low_bits
        """Of the integers."""
        self.signed_only = simd.multiplies_signed(isa)
        self.by_bytes = self.signed_only or isa.dot.startswith("vnni")

    def words(self, s: Emitter, q: list[V]) -> list[V]:
        """The two words of the integers in the low halves of q[0] to q[3], for each lane; what is above is ignored."""
        first, second = ((q[i] & 0xFFFF) | (q[i + 2] << 16) for i in range(2))
        if not self.by_bytes:
            return [first, second]
        low_bytes, high_bytes = s.like(first, 0x00FF00FF), s.like(first, 0xFF00FF00 - (1 << 32))
        low = low_bytes if self.low_bits == 8 else s.like(first, 0x007F007F)
        return [
            ((first >> self.low_bits) & low_bytes) | ((second << (8 - self.low_bits)) & high_bytes),
            (first & low) | ((second & low) << 8),
        ]

    def take_low_carry(self, q: V) -> V:
        """Signed integers so that the high byte, signed, and the low byte, signed, make them up."""
        return q + ((q & 128) << 1) if self.by_bytes and self.low_bits == 8 else q

    def zeros(self, s: Emitter) -> list[V]:
        """The accumulators of nothing."""
        return self.start(s, s.zero_i32())

    def start(self, s: Emitter, start: V) -> list[V]:
        """Accumulators that start at a number."""
        return [s.zero_i32(), start] if self.by_bytes else [start]

    def unsigned_start(self, s: Emitter, correction: V) -> list[V]:
        """Those of unsigned numbers: `correction` is minus half their range times the sum of the integers."""
        return self.zeros(s) if self.signed_only and self.bits == 8 else self.start(s, correction)

    def total(self, sums: list[V]) -> V:
        """What accumulators hold."""
        return (sums[0] << self.low_bits) + sums[1] if self.by_bytes else sums[0]

    def load(self, s: Emitter, address: V, *, signed: bool) -> list[list[V]]:
        """Four bytes for each lane, as `add` takes them; or four low nibbles, and four high ones."""
        v = s.load_bytes(address)
        if self.bits == 4:
            return self._nibbles(s, v)
        if self.by_bytes:
            return [[v ^ -128 if self.signed_only and not signed else v]]
        pairs = s.bitcast(v, I16, 2 * s.lanes)
        return [[(pairs << 8).arithmetic_shift(8), pairs.arithmetic_shift(8)] if signed else [pairs & 255, pairs >> 8]]

    def _nibbles(self, s: Emitter, v: V) -> list[list[V]]:
        if self.by_bytes:
            return [[s.bits(v, 0, 4)], [s.bits(v, 4, 4)]]
        pairs = s.bitcast(v, I16, 2 * s.lanes)
        return [[pairs & 15, (pairs >> 8) & 15], [(pairs >> 4) & 15, pairs >> 12]]

    def add(self, s: Emitter, sums: list[V], v: list[V], words: tuple[V, V], *, signed: bool) -> None:
        """Add the products of the numbers v with the integers in two words; `signed` tells whether the bytes are."""
        for i, word in enumerate(words):
            if not self.by_bytes:
                sums[0] = s.dot_i16(sums[0], v[i], s.as_i16_pairs(word))
            else:
                w = s.bitcast(word, I8, 4 * s.lanes)
                sums[i] = s.dot_u8(sums[i], w, v[0]) if signed else s.dot_u8(sums[i], v[0], w)
