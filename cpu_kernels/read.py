"""Reading memory as fast as it goes: the roof that decoding is measured against."""

from collections.abc import Callable

from numba import types

from llmrun.cpu_kernels import simd
from llmrun.cpu_kernels.fields import READ
from llmrun.cpu_kernels.isa import Isa
from llmrun.cpu_kernels.memory import load_word
from llmrun.cpu_kernels.share import share
from llmrun.cpu_kernels.vector import FLOAT, I32, INTP, f32_vector


def build_read(isa: Isa) -> Callable:
    """The kernel that reads."""
    emitted, vector = simd.emitter_for(isa, 16), f32_vector(16)

    @emitted(vector)
    def zero(s):
        return s.zero_f32()

    @emitted(vector, vector, INTP)
    def add(s, acc, address):
        return s.bitcast(s.bitcast(acc, I32, 16) + s.load(I32, address, 16), FLOAT, 16)

    @emitted(types.void, INTP, vector, vector, vector, vector)
    def store_sum(s, address, a, b, c, d):  # all of them, or what they read would be optimised away
        a, b, c, d = (s.bitcast(v, I32, 16) for v in (a, b, c, d))
        s.store(address, a + b + c + d)

    def read(op, thread, n_threads):
        source, out = load_word(op + READ.source), load_word(op + READ.out) + 64 * thread
        a, b, c, d = zero(), zero(), zero(), zero()
        first, last = share(load_word(op + READ.n_bytes) // 256, thread, n_threads)
        for i in range(first, last):
            a = add(a, source + 256 * i)
            b = add(b, source + 256 * i + 64)
            c = add(c, source + 256 * i + 128)
            d = add(d, source + 256 * i + 192)
        store_sum(out, a, b, c, d)

    return read
