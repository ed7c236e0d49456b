"""The Hadamard matrix of 32: it spreads what is large in a few dimensions over all of them, and keeps products."""

from llmrun.cpu_kernels.simd import Emitter
from llmrun.cpu_kernels.vector import FLOAT, V


def turned(s: Emitter, v: list[V]) -> list[V]:
    """The 32 values of two vectors, multiplied with the matrix: sums and differences of pairs, five times.

    Done twice, this multiplies by 32; so does it the product of two that are both turned.
    """
    a, b = v[0] + v[1], v[0] - v[1]
    for apart in (8, 4, 2, 1):
        signs = s.constants(FLOAT, [-1 if lane & apart else 1 for lane in range(16)])
        swapped = [lane ^ apart for lane in range(16)]
        a, b = (x * signs + s.shuffle(x, x, swapped) for x in (a, b))
    return [a, b]
