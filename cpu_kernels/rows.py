"""Operations on rows of activations: RMS norm and gated activations, each quantising for the products behind it."""

from collections.abc import Callable

from numba import types

from llmrun.cpu_kernels import simd
from llmrun.cpu_kernels.fields import GATED, NORM, QUANTISE
from llmrun.cpu_kernels.isa import Isa
from llmrun.cpu_kernels.jit import device
from llmrun.cpu_kernels.memory import load_f32, load_i32, load_word, store_f32
from llmrun.cpu_kernels.quantise import LANES, build_quantise_row
from llmrun.cpu_kernels.share import share, share_values
from llmrun.cpu_kernels.vector import INTP, f32_vector


def build_part(isa: Isa) -> Callable:
    """`part(n_tokens, n, thread, n_threads)`: tokens [begin, end) and their values [first, last) for one thread.

    Many tokens are shared in whole groups of columns, of few tokens each thread takes a part of every row: two threads
    that write to one group would take its cache lines from each other.
    """
    widest = isa.columns

    @device
    def part(n_tokens, n, thread, n_threads):
        if n_tokens < widest * n_threads:
            first, last = share_values(n, thread, n_threads)
            return 0, n_tokens, first, last
        begin, end = share((n_tokens + widest - 1) // widest, thread, n_threads)
        return begin * widest, min(end * widest, n_tokens), 0, n

    return part


def build_norm_sum(isa: Isa) -> Callable:
    """`sum_of_squares(x, n)`: in one fixed order."""
    emitted, vector = simd.emitter_for(isa, LANES), f32_vector(LANES)

    @emitted(vector)
    def zero(s):
        return s.zero_f32()

    @emitted(vector, vector, INTP)
    def add_square(s, acc, x):
        v = s.load_f32(x)
        return s.fma(v, v, acc)

    @emitted(types.float32, vector, vector, vector, vector)
    def total(s, a, b, c, d):
        return s.reduce((a + b) + (c + d), lambda x, y: x + y)

    @device
    def sum_of_squares(x, n):
        a, b, c, d = zero(), zero(), zero(), zero()
        for i in range(n // 64):
            a = add_square(a, x + 256 * i)
            b = add_square(b, x + 256 * i + 64)
            c = add_square(c, x + 256 * i + 128)
            d = add_square(d, x + 256 * i + 192)
        for i in range(n // 64 * 4, n // 16):
            a = add_square(a, x + 64 * i)
        result = total(a, b, c, d)
        for i in range(n // 16 * 16, n):
            result += load_f32(x + 4 * i) * load_f32(x + 4 * i)
        return result

    return sum_of_squares


def build_norm(isa: Isa) -> Callable:
    """The kernel of RMS norm."""
    import math

    sum_of_squares, quantise_row = build_norm_sum(isa), build_quantise_row(isa)
    sqrt, part = math.sqrt, build_part(isa)

    @device
    def scaled(x, weight, factor, i):
        return load_f32(x + 4 * i) * factor * load_f32(weight + 4 * i)

    @device
    def normalise(op, t, first, last):
        """The values [first, last) of one row."""
        n_tokens, n = load_word(load_word(op + NORM.n_tokens)), load_word(op + NORM.n)
        weight, residual, rows = load_word(op + NORM.weight), load_word(op + NORM.residual), load_word(op + NORM.rows)
        x = load_word(op + NORM.x) + (load_i32(rows + 4 * t) if rows else t) * load_word(op + NORM.x_stride)
        mean = sum_of_squares(x, n) / types.float32(n)
        factor = types.float32(1.0) / types.float32(sqrt(mean + load_f32(op + NORM.eps)))
        stride = load_word(op + NORM.out_stride)
        if residual:
            target = residual + t * stride
            for i in range(first, last):
                store_f32(target + 4 * i, load_f32(target + 4 * i) + scaled(x, weight, factor, i))
        else:
            target = load_word(op + NORM.out) + t * stride
            for i in range(first, last):
                store_f32(target + 4 * i, scaled(x, weight, factor, i))
            q16, f32 = load_word(op + NORM.q16), load_word(op + NORM.f32)
            quantise_row(target, n, first, last, t, n_tokens, q16, f32)

    def norm(op, thread, n_threads):
        n_tokens, n = load_word(load_word(op + NORM.n_tokens)), load_word(op + NORM.n)
        begin, end, first, last = part(n_tokens, n, thread, n_threads)
        for t in range(begin, end):
            normalise(op, t, first, last)

    return norm


def build_quantise(isa: Isa) -> Callable:
    """The kernel that quantises rows."""
    quantise_row, part = build_quantise_row(isa), build_part(isa)

    def quantise(op, thread, n_threads):
        n_tokens, n = load_word(load_word(op + QUANTISE.n_tokens)), load_word(op + QUANTISE.n)
        q16, f32 = load_word(op + QUANTISE.q16), load_word(op + QUANTISE.f32)
        begin, end, first, last = part(n_tokens, n, thread, n_threads)
        for t in range(begin, end):
            row = load_word(op + QUANTISE.x) + t * load_word(op + QUANTISE.x_stride)
            quantise_row(row, n, first, last, t, n_tokens, q16, f32)

    return quantise


def build_gated(isa: Isa, activation: str) -> Callable:
    """The kernel of a gated feed-forward's middle: "silu" or "gelu" (the tanh form) of the gate, times up."""
    emitted, quantise_row = simd.emitter_for(isa, LANES), build_quantise_row(isa)

    def value(s, gate, up):
        exponent = gate  # x / (1 + e**-x)
        if activation == "gelu":  # x / (1 + e**-2u) with u = sqrt(2 / pi) (x + 0.044715 x**3)
            exponent = s.fma(gate * gate * 0.044715, gate, gate) * 1.5957691216057308
        return gate / (s.exp(s.like(gate, 0.0) - exponent) + 1.0) * up

    @emitted(types.void, INTP, INTP, INTP)
    def sixteen(s, gate, up, out):
        s.store(out, value(s, s.load_f32(gate), s.load_f32(up)))

    @emitted(types.void, INTP, INTP, INTP)
    def single(s, gate, up, out):
        one = s.narrow(1)
        one.store(out, value(one, one.load_f32(gate), one.load_f32(up)))

    def gated(op, thread, n_threads):
        n_tokens, n = load_word(load_word(op + GATED.n_tokens)), load_word(op + GATED.n)
        q16, f32 = load_word(op + GATED.q16), load_word(op + GATED.f32)
        begin, end = share_values(n, thread, n_threads)  # the rows of `matmul`'s part, so that no barrier is needed
        for t in range(n_tokens):
            gate = load_word(op + GATED.gate) + t * load_word(op + GATED.gate_stride)
            up = load_word(op + GATED.up) + t * load_word(op + GATED.up_stride)
            out = load_word(op + GATED.out) + t * load_word(op + GATED.out_stride)
            for i in range(begin, end - 15, 16):
                sixteen(gate + 4 * i, up + 4 * i, out + 4 * i)
            for i in range(end - (end - begin) % 16, end):
                single(gate + 4 * i, up + 4 * i, out + 4 * i)
            quantise_row(out, n, begin, end, t, n_tokens, q16, f32)

    return gated
