"""Thirty-two weights of each row of a panel: what every quantised format becomes before it is multiplied.

A weight is scale x (byte - offset) + minimum. `multiply` is the only place where quantised weights meet activations,
so all formats, one token and a thousand, take the same float operations in the same order.
"""

from collections.abc import Callable
from dataclasses import dataclass

from llmrun.cpu_kernels.activations import Q16Record
from llmrun.cpu_kernels.simd import Emitter, V

STEPS = 8  # words of four bytes


@dataclass(frozen=True)
class GroupKind:
    """What the groups of a format have in common."""

    offset: int = 0  # taken from every byte; SIGNED for signed ones, see `Emitter.signed_weights`
    n_scales: int = 1  # one for 32 weights, or two for 16 each
    has_minimum: bool = False

    def unpacked_bytes(self, lanes: int) -> int:
        """Size of an unpacked group, see `store_unpacked`."""
        return 4 * lanes * (STEPS + self.n_scales + self.has_minimum)


@dataclass(frozen=True)
class WeightGroup:
    """A group in registers: `word(step)` gives four bytes a row; scales and minimum are floats, lane = row."""

    word: Callable[[int], V]
    scales: list[V]
    minimum: V | None = None


def multiply(s: Emitter, acc: list[V], group: WeightGroup, offset: int, x: V) -> list[V]:
    """acc[t] += the products of a group with column t of the record at `x`.

    The sixteen products behind one activation scale are summed as integers, exactly.
    """
    record, n = Q16Record(s, x, len(acc)), len(acc)
    parts: list[V] = []
    for half in range(2):
        sums = [s.offset_start(record.bias(t, half), offset) for t in range(n)]
        for step in range(4 * half, 4 * half + 4):
            word = group.word(step)
            sums = [s.dot(sums[t], word, record.bytes(t, step), offset) for t in range(n)]
        sums = [s.to_f32(total) for total in sums]
        if len(group.scales) == 2:
            acc = [s.fma(sums[t] * record.scale(t, half), group.scales[half], acc[t]) for t in range(n)]
        elif half == 0:
            parts = [sums[t] * record.scale(t, 0) for t in range(n)]
        else:
            parts = [s.fma(sums[t], record.scale(t, 1), parts[t]) for t in range(n)]
            acc = [s.fma(parts[t], group.scales[0], acc[t]) for t in range(n)]
    if group.minimum is not None:
        acc = [s.fma(group.minimum, record.sum(t), acc[t]) for t in range(n)]
    return acc


def store_unpacked(s: Emitter, target: V, group: WeightGroup, kind: GroupKind) -> None:
    """Write a group as bytes and floats, for products with many columns: 8 words | scales | minimum."""
    row = 4 * s.lanes
    for step in range(STEPS):
        s.store(target + row * step, s.with_cheap_offset(group.word(step), kind.offset))
    floats = [*group.scales, *([group.minimum] if group.minimum is not None else [])]
    for i, v in enumerate(floats):
        s.store(target + row * (STEPS + i), v)


def load_unpacked(s: Emitter, source: V, kind: GroupKind) -> WeightGroup:
    """Read a group that `store_unpacked` wrote; its bytes have the offset `simd.cheap_offset`."""
    row = 4 * s.lanes
    floats = [s.load_f32(source + row * (STEPS + i)) for i in range(kind.n_scales + kind.has_minimum)]
    return WeightGroup(
        lambda step: s.load_bytes(source + row * step),
        floats[: kind.n_scales],
        floats[kind.n_scales] if kind.has_minimum else None,
    )
