"""Operations on each value of rows of activations by itself."""

from collections.abc import Callable

from numba import types

from llmrun.cpu_kernels import simd
from llmrun.cpu_kernels.fields import ADD, GELU
from llmrun.cpu_kernels.isa import Isa
from llmrun.cpu_kernels.memory import load_f32, load_word, store_f32
from llmrun.cpu_kernels.quantise import LANES, build_quantise_row
from llmrun.cpu_kernels.rows import build_part
from llmrun.cpu_kernels.simd import Emitter
from llmrun.cpu_kernels.vector import INTP, V

# erf(z) = 1 - (a1 t + ... + a5 t**5) e**(-z**2) with t = 1 / (1 + p z), to 1.5e-7 (Abramowitz and Stegun, 7.1.26)
_P = 0.3275911
_A = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


def build_add(isa: Isa) -> Callable:
    """The kernel that adds rows, or one vector to all rows."""
    part = build_part(isa)

    def add(op, thread, n_threads):
        n_tokens, n = load_word(load_word(op + ADD.n_tokens)), load_word(op + ADD.n)
        begin, end, first, last = part(n_tokens, n, thread, n_threads)
        for t in range(begin, end):
            x = load_word(op + ADD.x) + t * load_word(op + ADD.x_stride)
            y = load_word(op + ADD.y) + t * load_word(op + ADD.y_stride)
            for i in range(first, last):
                store_f32(x + 4 * i, load_f32(x + 4 * i) + load_f32(y + 4 * i))

    return add


def _gelu(s: Emitter, x: V) -> V:
    """x / 2 (1 + erf(x / sqrt(2)))."""
    z = s.absolute(x) * 0.7071067811865476
    one, zero = s.like(x, 1.0), s.like(x, 0.0)
    t = one / s.fma(z, s.like(x, _P), one)
    tail = s.like(x, _A[-1])
    for a in _A[-2::-1]:
        tail = s.fma(tail, t, s.like(x, a))
    half = x * (tail * t * s.exp(zero - z * z)) * 0.5  # x / 2 (1 - erf(z))
    return s.select_greater(x, zero, x - half, half)


def build_gelu(isa: Isa) -> Callable:
    """The kernel of GELU in its exact form."""
    emitted, quantise_row, part = simd.emitter_for(isa, LANES), build_quantise_row(isa), build_part(isa)

    @emitted(types.void, INTP)
    def sixteen(s, x):
        s.store(x, _gelu(s, s.load_f32(x)))

    @emitted(types.void, INTP)
    def single(s, x):
        one = s.narrow(1)
        one.store(x, _gelu(one, one.load_f32(x)))

    def gelu(op, thread, n_threads):
        n_tokens, n = load_word(load_word(op + GELU.n_tokens)), load_word(op + GELU.n)
        q16, f32 = load_word(op + GELU.q16), load_word(op + GELU.f32)
        begin, end, first, last = part(n_tokens, n, thread, n_threads)
        for t in range(begin, end):
            x = load_word(op + GELU.x) + t * load_word(op + GELU.x_stride)
            for i in range(first, last - 15, 16):
                sixteen(x + 4 * i)
            for i in range(last - (last - first) % 16, last):
                single(x + 4 * i)
            quantise_row(x, n, first, last, t, n_tokens, q16, f32)

    return gelu
