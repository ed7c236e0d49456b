"""Layer norm (Ba et al., arXiv 1607.06450) of rows of activations, quantising for the products behind it."""

from collections.abc import Callable

from numba import types

from llmrun.cpu_kernels import simd
from llmrun.cpu_kernels.fields import LAYER_NORM
from llmrun.cpu_kernels.isa import Isa
from llmrun.cpu_kernels.jit import device
from llmrun.cpu_kernels.memory import load_f32, load_i32, load_word, store_f32
from llmrun.cpu_kernels.quantise import LANES, build_quantise_row
from llmrun.cpu_kernels.rows import build_part
from llmrun.cpu_kernels.vector import INTP, f32_vector


def _build_sum(isa: Isa, squared: bool) -> Callable:
    """`total(x, n, mean)`: the sum of x - mean, or of its squares, in one fixed order."""
    emitted, vector = simd.emitter_for(isa, LANES), f32_vector(LANES)

    @emitted(vector)
    def zero(s):
        return s.zero_f32()

    @emitted(vector, vector, INTP, types.float32)
    def add_term(s, acc, x, mean):
        v = s.load_f32(x) - s.splat(mean)
        return s.fma(v, v, acc) if squared else acc + v

    @emitted(types.float32, vector, vector)
    def reduced(s, a, b):
        return s.reduce(a + b, lambda x, y: x + y)

    @device
    def total(x, n, mean):
        a, b = zero(), zero()
        for i in range(n // 32):
            a = add_term(a, x + 128 * i, mean)
            b = add_term(b, x + 128 * i + 64, mean)
        if n % 32 >= 16:
            a = add_term(a, x + 128 * (n // 32), mean)
        result = reduced(a, b)
        for i in range(n // 16 * 16, n):
            v = load_f32(x + 4 * i) - mean
            result += v * v if squared else v
        return result

    return total


def build_layer_norm(isa: Isa) -> Callable:
    """The kernel of layer norm."""
    import math

    total, total_of_squares = _build_sum(isa, squared=False), _build_sum(isa, squared=True)
    quantise_row, part, sqrt = build_quantise_row(isa), build_part(isa), math.sqrt

    @device
    def normalise(op, t, first, last):
        """The values [first, last) of one row."""
        n, rows = load_word(op + LAYER_NORM.n), load_word(op + LAYER_NORM.rows)
        weight, bias = load_word(op + LAYER_NORM.weight), load_word(op + LAYER_NORM.bias)
        x = load_word(op + LAYER_NORM.x)
        x += (load_i32(rows + 4 * t) if rows else t) * load_word(op + LAYER_NORM.x_stride)
        mean = total(x, n, types.float32(0.0)) / types.float32(n)
        variance = total_of_squares(x, n, mean) / types.float32(n)
        factor = types.float32(1.0) / types.float32(sqrt(variance + load_f32(op + LAYER_NORM.eps)))
        out = load_word(op + LAYER_NORM.out) + t * load_word(op + LAYER_NORM.out_stride)
        for i in range(first, last):
            scaled = (load_f32(x + 4 * i) - mean) * factor * load_f32(weight + 4 * i)
            store_f32(out + 4 * i, scaled + load_f32(bias + 4 * i))
        n_tokens = load_word(load_word(op + LAYER_NORM.n_tokens))
        quantise_row(out, n, first, last, t, n_tokens, load_word(op + LAYER_NORM.q16), load_word(op + LAYER_NORM.f32))

    def layer_norm(op, thread, n_threads):
        n_tokens, n = load_word(load_word(op + LAYER_NORM.n_tokens)), load_word(op + LAYER_NORM.n)
        begin, end, first, last = part(n_tokens, n, thread, n_threads)
        for t in range(begin, end):
            normalise(op, t, first, last)

    return layer_norm
