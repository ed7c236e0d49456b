"""Thirty-two weights of each row of a panel: what every quantised format becomes before it is multiplied.

A weight is scale x (byte - offset) + minimum. `multiply` is the only place where quantised weights meet activations,
so all formats, one token and a thousand, take the same float operations in the same order.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from llmrun.cpu_kernels.byte_matrices import LEAST_COLUMNS, has_matrices, matrix_sums, row_pairs
from llmrun.cpu_kernels.q16_record import Q16Record
from llmrun.cpu_kernels.simd import Emitter, multiplies_signed
from llmrun.cpu_kernels.vector import V

STEPS = 8  # words of four bytes


@dataclass(frozen=True)
class GroupKind:
    """What the groups of a format have in common."""

    offset: int = 0  # of the weights before they are `simd.raised`; SIGNED for bytes, see `Emitter.signed_weights`
    n_scales: int = 1  # one for 32 weights, or two for 16 each
    has_minimum: bool = False

    def unpacked_bytes(self, lanes: int) -> int:
        """Size of an unpacked group, see `store_unpacked`."""
        return 4 * lanes * (STEPS + self.n_scales + self.has_minimum)


@dataclass(frozen=True)
class WeightGroup:
    """A group in registers: `word(step)` gives four bytes a row; scales and `minimum()` are floats, lane = row.

    Words and the minimum are loaded or computed when they are asked for. With `paired`, two words are row pairs
    instead, see `byte_matrices.py`.
    """

    word: Callable[[int], V]
    scales: list[V]
    minimum: Callable[[], V] | None = None
    paired: bool = False

    def row_pairs(self, s: Emitter, i: int) -> tuple[V, V]:
        """The row pairs of words 2 i and 2 i + 1."""
        first, second = self.word(2 * i), self.word(2 * i + 1)
        return (first, second) if self.paired else row_pairs(s, first, second)


def multiply(s: Emitter, acc: list[V], groups: Sequence[WeightGroup], offset: int, x: V) -> list[V]:
    """acc[i] += the products of groups of several panels with the columns whose records begin at `x`.

    The accumulators are those of the first column with each panel, of the second column, and so on. The sixteen
    products behind one activation scale are summed as integers, exactly.
    """
    record = Q16Record(s, x, len(acc) // len(groups))
    columns = range(record.columns)
    for half in range(2):
        s.keep_order()  # or the words of both halves would be loaded at once
        sums, products = _integer_sums(s, groups, offset, record, half), []
        if multiplies_signed(s.isa):
            s.keep_order()  # or the scales would be loaded before the sums, and spilled
        for t in columns:
            scale, end = record.scale(t, half), record.end(t, half)
            products += [s.scaled_sum(panel[t], scale, end) for panel in sums]
        factors = [group.scales[half % len(group.scales)] for group in groups] * len(columns)
        acc = [s.fma(product, factor, a) for product, factor, a in zip(products, factors, acc, strict=True)]
    minimums = [group.minimum() for group in groups if group.minimum is not None]
    if minimums:
        terms = [(minimum, total) for total in map(record.sum, columns) for minimum in minimums]
        acc = [s.fma(minimum, total, a) for (minimum, total), a in zip(terms, acc, strict=True)]
    return acc


def _integer_sums(
    s: Emitter, groups: Sequence[WeightGroup], offset: int, record: Q16Record, half: int
) -> list[list[V]]:
    """The sixteen products behind one activation scale, summed for each panel and column; lane = row."""
    columns = range(record.columns)
    starts = [s.sum_start(record.start(t, half), offset) for t in columns]
    if has_matrices(s.isa) and len(columns) >= LEAST_COLUMNS:
        return [matrix_sums(s, partial(group.row_pairs, s), record, half, starts) for group in groups]
    sums = [starts] * len(groups)
    for step in range(4 * half, 4 * half + 4):
        words, x = [group.word(step) for group in groups], [record.bytes(t, step) for t in columns]
        sums = [[s.dot(panel[t], word, x[t], offset) for t in columns] for panel, word in zip(sums, words, strict=True)]
    return sums


def store_unpacked(s: Emitter, target: V, group: WeightGroup, kind: GroupKind) -> None:
    """Write a group as bytes and floats, for products with many columns: 8 words | scales | minimum."""
    row = 4 * s.lanes
    words = [s.with_cheap_offset(group.word(step), kind.offset) for step in range(STEPS)]
    if has_matrices(s.isa):
        words = [word for i in range(0, STEPS, 2) for word in row_pairs(s, words[i], words[i + 1])]
    for step, word in enumerate(words):
        s.store(target + row * step, word)
    floats = [*group.scales, *([group.minimum()] if group.minimum is not None else [])]
    for i, v in enumerate(floats):
        s.store(target + row * (STEPS + i), v)


def load_unpacked(s: Emitter, source: V, kind: GroupKind) -> WeightGroup:
    """Read a group that `store_unpacked` wrote; its bytes have the offset `simd.cheap_offset`."""
    row = 4 * s.lanes
    scales = [s.load_f32(source + row * (STEPS + i)) for i in range(kind.n_scales)]
    return WeightGroup(
        lambda step: s.load_bytes(source + row * step),
        scales,
        (lambda: s.load_f32(source + row * (STEPS + kind.n_scales))) if kind.has_minimum else None,
        paired=has_matrices(s.isa),
    )
