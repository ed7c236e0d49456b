"""Sums of byte products on processors that multiply small matrices: two rows of eight weights by two columns.

The words of a group are one step of every row. Two steps of two rows, side by side, are such a matrix:

    step 2 i        a0 a1 a2 a3 a4 a5 a6 a7        (a word of each of eight rows)
    step 2 i + 1    b0 b1 b2 b3 b4 b5 b6 b7
    row pairs       a0 b0 a1 b1 | a2 b2 a3 b3,  a4 b4 a5 b5 | a6 b6 a7 b7

The sums of a row pair and a column pair are four integers; in the end they are sorted into columns, lane = row.
"""

from collections.abc import Callable

from llmrun.cpu_kernels.isa import Isa
from llmrun.cpu_kernels.q16_record import Q16Record
from llmrun.cpu_kernels.simd import Emitter
from llmrun.cpu_kernels.vector import I8, I32, V

LEAST_COLUMNS = 4
"""For fewer columns, bringing weights and activations into pairs takes more than the matrices save."""


def has_matrices(isa: Isa) -> bool:
    """Whether the processor multiplies matrices of bytes."""
    return isa.dot == "smmla"


def row_pairs(s: Emitter, first: V, second: V) -> tuple[V, V]:
    """The words of two steps as row pairs: those of the first half of the rows, and of the second."""
    n = s.lanes
    a, b = s.bitcast(first, I32, n), s.bitcast(second, I32, n)
    lanes = [lane for row in range(n) for lane in (row, n + row)]
    low, high = s.shuffle(a, b, lanes[:n]), s.shuffle(a, b, lanes[n:])
    return s.bitcast(low, I8, 4 * n), s.bitcast(high, I8, 4 * n)


def matrix_sums(
    s: Emitter, pairs: Callable[[int], tuple[V, V]], record: Q16Record, half: int, starts: list[V]
) -> list[V]:
    """Each column's start plus its sixteen products with each row; `pairs(i)` are the row pairs of 2 i and 2 i + 1."""
    n, columns = s.lanes, range(0, record.columns, 2)
    start = [s.shuffle(starts[t], starts[t + 1], [0, n, 0, n]) for t in columns]
    sums = [[start[c]] * (n // 2) for c in range(len(columns))]
    halves = [_column_pair(s, record, t, half) for t in columns]
    for i in range(2):
        weights = [piece for v in pairs(2 * half + i) for piece in s.pieces(v, 16)]
        sums = [
            [s.matrix_dot(total, w, x[i]) for total, w in zip(column, weights, strict=True)]
            for column, x in zip(sums, halves, strict=True)
        ]
    joined = [s.joined(column) for column in sums]
    return [s.shuffle(v, v, range(which, 2 * n, 2)) for v in joined for which in range(2)]


def _column_pair(s: Emitter, record: Q16Record, t: int, half: int) -> list[V]:
    """Eight bytes of column t beside eight of the next, twice."""
    a, b = (record.sixteen_bytes(t + i, half) for i in range(2))
    return [s.shuffle(a, b, [*range(i, i + 8), *range(16 + i, 24 + i)]) for i in (0, 8)]
