"""Where a column of activations lies: the groups of `activations.py`, for running kernels."""

from llmrun.cpu_kernels.isa import Isa
from llmrun.cpu_kernels.jit import inlined


def group_functions(isa: Isa):
    """`width(remaining)` of the next group, and `find(token, n_tokens)`: the group's first column and its width."""
    widest = isa.columns

    @inlined
    def width(remaining):
        """The widest power of two that is at most `remaining` and the register tile's columns."""
        w = widest
        while w > remaining:
            w >>= 1
        return w

    @inlined
    def find(token, n_tokens):
        first = token - token % widest
        w = width(n_tokens - first)
        while token >= first + w:
            first += w
            w = width(n_tokens - first)
        return first, w

    return width, find
