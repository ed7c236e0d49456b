"""The softmax of attention, to base two, so that partial results are combined by exact powers of two.

The weights of a column are 2**(score - e), where the whole number e is near the largest score so far. When a later
block has larger ones, what was summed up is multiplied by 2**(e - new e): that only changes exponents.
"""

from collections.abc import Callable, Sequence

from numba import types

from llmrun.cpu_kernels import simd
from llmrun.cpu_kernels.isa import Isa
from llmrun.cpu_kernels.simd import Emitter
from llmrun.cpu_kernels.step import BLOCK_TOKENS, column_bytes
from llmrun.cpu_kernels.vector import FLOAT, I32, INTP, V

LOWEST = -1e30  # a masked score; well below the least exponent, so that its weight is exactly zero
LEAST_EXPONENT = -1e29
SMALLEST = -125.0  # weights below 2**SMALLEST count as zero
LANES = 16

# 2**r = 1 + r * polynomial for |r| <= 1/2, by least largest relative error, which is 9e-8
_POLYNOMIAL = (
    1.3264726899294818e-3, 9.67151266059765e-3, 5.5507337442436314e-2, 2.4022242084918544e-1, 6.931469775984715e-1,
)  # fmt: skip
_ROUND = 12582912.0  # adding 1.5 x 2**23 pushes the fraction out


def exp2(s: Emitter, x: V) -> V:
    """2**x for x below 127, with a relative error below 2e-7; 0 for x below SMALLEST."""
    shifted = x + _ROUND
    r = x - (shifted - _ROUND)
    p = s.like(x, _POLYNOMIAL[0])
    for c in _POLYNOMIAL[1:]:
        p = s.fma(p, r, s.like(x, c))
    p = s.fma(p, r, s.like(x, 1.0))
    n = x.value.type.count
    # the low bits of `shifted` are the whole number, which is added to the exponent
    power = s.bitcast(s.bitcast(p, I32, n) + (s.bitcast(shifted, I32, n) << 23), FLOAT, n)
    return s.select_greater(x, s.like(x, SMALLEST), power, s.like(x, 0.0))


def power_of_two(s: Emitter, n: V) -> V:
    """2**n for whole numbers n up to 0, exactly; 0 below -126."""
    lanes = n.value.type.count
    clamped = s.maximum(n, s.like(n, -127.0))
    return s.bitcast((s.to_i32(clamped) + 127) << 23, FLOAT, lanes)


def reduce_together(s: Emitter, vectors: Sequence[V], combine: Callable[[V, V], V]) -> list[V]:
    """Each of up to 4 vectors combined in the order of `Emitter.reduce`, the result in all lanes; cheaper together."""
    count = 4 if len(vectors) > 2 else len(vectors)
    rows = [*vectors, *[vectors[-1]] * (count - len(vectors))]
    width = LANES
    while len(rows) > 1:
        rows = [_fold_two(s, a, b, width // 2, combine) for a, b in zip(rows[::2], rows[1::2], strict=True)]
        width //= 2
    v = rows[0]
    while width > 1:
        width //= 2
        lanes = [lane ^ width for lane in range(LANES)]
        v = combine(v, s.shuffle(v, v, lanes))
    return [s.shuffle(v, v, [i * (LANES // count)] * LANES) for i in range(len(vectors))]


def _fold_two(s: Emitter, a: V, b: V, half: int, combine: Callable[[V, V], V]) -> V:
    """The halves of every 2 x `half` lanes of a onto each other, and of b; those of a come first."""
    starts = range(0, LANES, 2 * half)
    low = [start + i for start in starts for i in range(half)]
    first = [*low, *(LANES + lane for lane in low)]
    return combine(s.shuffle(a, b, first), s.shuffle(a, b, [lane + half for lane in first]))


def build_softmax(isa: Isa, head_dim: int, columns: int) -> Callable:
    """`softmax(scores, limits, results)`: the scores of a block become weights in place, for 1 to 4 columns.

    Column t counts the tokens in [limits[t, 0], limits[t, 1]), int32. The first floats of its result are the exponent,
    the sum of weights, and the factor for what was summed up before, which is applied to the sum here.
    """
    emitted = simd.emitter_for(isa, LANES)
    result_bytes = column_bytes(head_dim)

    @emitted(types.void, INTP, INTP, INTP)
    def softmax(s, scores, limits, results):
        lowest = s.constant(FLOAT, LOWEST, LANES)
        masked: list[list[V]] = []
        for t in range(columns):
            low, high = (s.broadcast_i32(limits + (8 * t + 4 * i)) for i in range(2))
            column = []
            for v in range(BLOCK_TOKENS // LANES):
                token = s.constants(I32, range(LANES * v, LANES * v + LANES))
                score = s.load_f32(scores + (4 * BLOCK_TOKENS * t + 64 * v))
                column.append(s.select_within(token, low, high, score, lowest))
            masked.append(column)
        pairs = [(s.maximum(a, b), s.maximum(c, d)) for a, b, c, d in masked]
        tops = reduce_together(s, [s.maximum(a, b) for a, b in pairs], s.maximum)
        sums, befores, factors = [], [], []
        for t, (column, top) in enumerate(zip(masked, tops, strict=True)):
            head = results + t * result_bytes
            before = s.broadcast_f32(head)
            exponent = s.maximum(s.round_even(top), before)
            factors.append(power_of_two(s, before - exponent))
            befores.append(s.broadcast_f32(head + 4))
            weights = [exp2(s, score - exponent) for score in column]
            for v, weight in enumerate(weights):
                s.store(scores + (4 * BLOCK_TOKENS * t + 64 * v), weight)
            sums.append((weights[0] + weights[1]) + (weights[2] + weights[3]))
            s.store(head, s.first_lane(exponent))
        totals = reduce_together(s, sums, lambda a, b: a + b)
        for t, (total, before, factor) in enumerate(zip(totals, befores, factors, strict=True)):
            head = results + t * result_bytes
            s.store(head + 4, s.first_lane(s.fma(before, factor, total)))
            s.store(head + 8, s.first_lane(factor))

    return softmax
