"""Keys and values of 8 or 4 bits, with one half as the scale of 32 values: value = scale x number.

Numbers are -127..127, or -8..7, where the scale has the sign that makes the largest value -8. The scales of a head come
first, token after token. Keys lie sixteen tokens side by side, four dimensions in a word; of values, a word holds one
dimension of four tokens: token t is byte t / 16 of word t % 16. Bytes of keys have 128 added. Nibbles have 8 added, and
a byte holds two: one of dimensions 0 to 15, then that of 16 further.

    8 bits  keys    (n_kv_heads, [(head_dim / 32, 64) scales, (64 / 16, head_dim / 4, 16, 4) uint8])
            values  (n_kv_heads, [(head_dim / 32, 64) scales, (head_dim / 32, 16, 32, 4) int8])
    4 bits  keys    (n_kv_heads, [(head_dim / 32, 64) scales, (64 / 16, head_dim / 8, 16, 4) uint8])
            values  (n_kv_heads, [(head_dim / 32, 64) scales, (head_dim / 32, 16, 16, 4) uint8])

Keys and queries are turned before by a Hadamard matrix, 32 dimensions at a time. That leaves their products as they
are, times 32, and spreads the few dimensions that are much larger than the others, which would make the scale coarse.
So are values of 4 bits; the weighted mean is turned back where it is finished (`attention_merge.py`).

Of 4-bit keys, what the numbers leave may be stored in another block the same way, turned as it is (see `kv_types.py`):
then the scores of both are added up, and the weighted values too.

Products are exact integers. A query is quantised to 16 bits, or 15 for nibbles, with one scale for the head; the
weights of a block times the scales of its values to 15 bits, with one scale for the block. Both are far finer than the
numbers they meet.
"""

from collections.abc import Callable

from numba import types

from llmrun.cpu_kernels import simd
from llmrun.cpu_kernels.attention_softmax import reduce_together
from llmrun.cpu_kernels.exact_products import ExactProducts
from llmrun.cpu_kernels.hadamard import turned
from llmrun.cpu_kernels.isa import Isa
from llmrun.cpu_kernels.jit import device
from llmrun.cpu_kernels.kv_types import KVType
from llmrun.cpu_kernels.memory import load_f16, store_f16
from llmrun.cpu_kernels.simd import Emitter
from llmrun.cpu_kernels.step import BLOCK_TOKENS, TILE, column_bytes
from llmrun.cpu_kernels.vector import I8, I32, INTP, V, f32_tile

_NEGLIGIBLE = 1e-30  # the largest weight times scale of a block that counts as nothing; its inverse is finite
_ROUND = 12582912.0  # adding 1.5 x 2**23 leaves the rounded number in the low bits
_ROUNDS = (64 * 0x4B400000) % 2**32 - 2**32  # 64 of these, as integers of 32 bits
_SCALES_BYTES = 2 * BLOCK_TOKENS  # of 32 dimensions
_PLANES = 4 * BLOCK_TOKENS * TILE  # where the weights as integers are, behind those as floats


def build_store(isa: Isa, kv: KVType) -> Callable:
    """`store(k, v, keys, values, slot, n)`: n floats each of a key and a value become token `slot` of a block.

    What is to be turned is turned in place; of a type with residuals, only what the stored numbers leave stays there.
    """
    turn, turns_values, put = _build_turn(isa), kv.turns_values, build_store_residual(isa, kv)

    @device
    def store(k, v, keys, values, slot, n):
        for b in range(n // 32):
            turn(k + 128 * b)
            if turns_values:
                turn(v + 128 * b)
        put(k, v, keys, values, slot, n)

    return store


def build_store_residual(isa: Isa, kv: KVType) -> Callable:
    """`store_residual(k, v, keys, values, slot, n)`: as `store` does it, of what is turned already."""
    has_residuals = kv.has_residuals
    store_scale = _build_store_scale(isa, kv.bits)
    store_key, store_value = _build_store_key(isa, kv.bits), _build_store_value(isa, kv.bits)
    leave_residual = _build_leave_residual(isa)
    key_part, value_part = 64 * kv.bits, 256 * kv.bits  # bytes of 32 dimensions, of 16 tokens and of 64

    @device
    def store_residual(k, v, keys, values, slot, n):
        n_blocks = n // 32
        key = keys + _SCALES_BYTES * n_blocks + (slot // 16) * (key_part * n_blocks) + slot % 16 * 4
        value = values + _SCALES_BYTES * n_blocks + slot % 16 * (value_part // 16) + slot // 16
        for b in range(n_blocks):
            scale = _SCALES_BYTES * b + 2 * slot
            inverse = store_scale(k + 128 * b, keys + scale)
            store_key(k + 128 * b, inverse, key + key_part * b)
            if has_residuals:
                leave_residual(k + 128 * b, inverse, load_f16(keys + scale))
            inverse = store_scale(v + 128 * b, values + scale)
            store_value(v + 128 * b, inverse, value + value_part * b)
            if has_residuals:
                leave_residual(v + 128 * b, inverse, load_f16(values + scale))

    return store_residual


def _build_turn(isa: Isa) -> Callable:
    """`turn(source)`: 32 floats multiplied with the Hadamard matrix, in place."""

    @simd.emitter_for(isa, 16)(types.void, INTP)
    def turn(s, source):
        for i, v in enumerate(turned(s, [s.load_f32(source + 64 * i) for i in range(2)])):
            s.store(source + 64 * i, v)

    return turn


def _build_store_scale(isa: Isa, bits: int) -> Callable:
    """`store_scale(source, target)`: stores the scale of 32 floats; returns what turns them into numbers."""

    @simd.emitter_for(isa, 16)(types.float32, INTP)
    def wanted(s, source):
        a, b = (s.load_f32(source + 64 * i) for i in range(2))
        if bits == 8:
            return s.reduce(s.maximum(s.absolute(a), s.absolute(b)), s.maximum) * (1 / 127)
        highest, lowest = s.reduce(s.maximum(a, b), s.maximum), s.reduce(s.minimum(a, b), s.minimum)
        minus_lowest = s.like(lowest, 0.0) - lowest
        return s.select_greater(highest, minus_lowest, highest, lowest) * (-1 / 8)

    @device
    def store_scale(source, target):
        store_f16(target, wanted(source))
        scale = load_f16(target)
        return types.float32(1) / scale if scale != types.float32(0) else types.float32(0)

    return store_scale


def _build_leave_residual(isa: Isa) -> Callable:
    """`leave_residual(source, inverse, scale)`: takes from 32 floats what their 4-bit numbers stand for, in place."""

    @simd.emitter_for(isa, 16)(types.void, INTP, types.float32, types.float32)
    def leave_residual(s, source, inverse, scale):
        for i, q in enumerate(_rounded(s, source, inverse, 4)):
            s.store(source + 64 * i, s.load_f32(source + 64 * i) - q * s.splat(scale))

    return leave_residual


def _rounded(s: Emitter, source: V, inverse: V, bits: int) -> list[V]:
    """32 floats as numbers, still floats; the scale is a rounded half, so they may reach beyond."""
    low, high = (-127.0, 127.0) if bits == 8 else (-8.0, 7.0)
    rounded = [s.round_even(s.load_f32(source + 64 * i) * s.splat(inverse)) for i in range(2)]
    return [s.minimum(s.maximum(q, s.like(q, low)), s.like(q, high)) for q in rounded]


def _numbers(s: Emitter, source: V, inverse: V, bits: int) -> list[V]:
    """32 floats as numbers, (16 x i8) twice."""
    return [s.truncate(s.to_i32(q), I8) for q in _rounded(s, source, inverse, bits)]


def _nibbles(numbers: list[V]) -> V:
    """Both sixteen of -8..7 in the bytes of one."""
    return (numbers[0] + 8) | ((numbers[1] + 8) << 4)


def _build_store_key(isa: Isa, bits: int) -> Callable:
    """`store_key(source, inverse, target)`: 32 floats of a token among those of the other fifteen."""

    @simd.emitter_for(isa, 16)(types.void, INTP, types.float32, INTP)
    def store_key(s, source, inverse, target):
        numbers = _numbers(s, source, inverse, bits)
        for i, q in enumerate([q ^ -128 for q in numbers] if bits == 8 else [_nibbles(numbers)]):
            words = s.bitcast(q, I32, 4)
            for j in range(4):
                s.store(target + 64 * (4 * i + j), s.first_lane(s.shuffle(words, words, [j])))

    return store_key


def _build_store_value(isa: Isa, bits: int) -> Callable:
    """`store_value(source, inverse, target)`: 32 floats of a token among those of the other 63."""

    @simd.emitter_for(isa, 16)(types.void, INTP, types.float32, INTP)
    def store_value(s, source, inverse, target):
        numbers = _numbers(s, source, inverse, bits)
        for i, q in enumerate(numbers if bits == 8 else [_nibbles(numbers)]):
            for j in range(16):
                s.store(target + 4 * (16 * i + j), s.first_lane(s.shuffle(q, q, [j])))

    return store_value


def build_take(isa: Isa, head_dim: int, kv: KVType) -> Callable:
    """`take(q, column, scale)`: the query of a head, times `scale`, as `scores` reads it.

    Two words for four dimensions, then -128 (or -8) times the sum of the integers of each 32 dimensions, and the scale.
    """
    emitted = simd.emitter_for(isa, 16)
    products = ExactProducts(isa, kv.bits)
    starts = 2 * head_dim

    @emitted(types.void, INTP, INTP, types.float32)
    def take(s, q, column, scale):
        values = []
        for i in range(0, head_dim // 16, 2):
            pair = [s.load_f32(q + 64 * (i + j)) * s.splat(scale) for j in range(2)]
            values += [v * (1 / 32) for v in turned(s, pair)]
        largest = s.absolute(values[0])
        for v in values[1:]:
            largest = s.maximum(largest, s.absolute(v))
        largest = s.reduce(largest, s.maximum)
        tiny = s.like(largest, _NEGLIGIBLE)
        inverse = s.select_greater(largest, tiny, s.like(largest, products.largest) / largest, s.like(largest, 0.0))
        quants = [s.to_i32(s.round_even(v * s.splat(inverse))) for v in values]
        for i, v in enumerate(quants):
            carried = products.take_low_carry(v)
            first, second = products.words(s, [s.shuffle(carried, carried, range(j, 16, 4)) for j in range(4)])
            s.store(column + 32 * i, s.shuffle(first, second, [0, 4, 1, 5, 2, 6, 3, 7]))
        for b in range(head_dim // 32):
            total = s.reduce(quants[2 * b] + quants[2 * b + 1], lambda x, y: x + y)
            s.store(column + (starts + 4 * b), s.like(total, 0) - (total << (kv.bits - 1)))
        s.store(column + (starts + head_dim // 8), largest * (1 / products.largest))

    return take


def build_scores(isa: Isa, head_dim: int, columns: int, kv: KVType, *, adds: bool = False) -> Callable:
    """`scores(q, keys, ahead, out)`: the scores of a block's tokens, 64 floats a column; `adds` to what is there.

    One fused multiply-add for every 32 dimensions, in ascending order; lane = token. What lies `ahead` bytes further is
    fetched.
    """
    emitted = simd.emitter_for(isa)
    products = ExactProducts(isa, kv.bits)
    lanes, per_load = isa.lanes, 8 // kv.bits  # words of the query that meet what is loaded at once
    vectors = 2 if lanes == 16 else 1  # of `lanes` tokens, in registers at once
    n_passes = BLOCK_TOKENS // (lanes * vectors)
    tile = f32_tile(lanes, columns * vectors)
    n_blocks, part, q_bytes, starts = head_dim // 32, 64 * kv.bits, 4 * head_dim, 2 * head_dim
    group_bytes = part * n_blocks

    @emitted(tile)
    def zeros(s):
        return [s.zero_f32()] * (columns * vectors)

    @emitted(tile, tile, INTP, INTP, INTP, INTP, INTP)
    def step(s, acc, q, start, scales, keys, ahead):
        s.prefetch(scales + ahead, 64)
        starting = [products.unsigned_start(s, s.broadcast_i32(start + q_bytes * t)) for t in range(columns)]
        sums = [[list(starting[t]) for _ in range(vectors)] for t in range(columns)]
        for row in range(8 // per_load):
            k = []
            for v in range(vectors):
                k.append(products.load(s, keys + (v * group_bytes + 64 * row), signed=False))
                s.prefetch(keys + ahead + (v * group_bytes + 64 * row), 64)
            for t in range(columns):
                for n in range(per_load):
                    word = row + 4 * n
                    words = tuple(s.broadcast_nth(I32, q + q_bytes * t, 2 * word + i) for i in range(2))
                    for v in range(vectors):
                        products.add(s, sums[t][v], k[v][n], words, signed=False)
        scale = [s.load_f16(scales + 2 * lanes * v) for v in range(vectors)]
        return [
            s.fma(s.to_f32(products.total(sums[t][v])), scale[v], acc[t * vectors + v])
            for t in range(columns)
            for v in range(vectors)
        ]

    @emitted(types.void, INTP, INTP, tile)
    def store(s, out, q, acc):
        for t in range(columns):
            scale = s.broadcast_f32(q + (q_bytes * t + starts + head_dim // 8))
            for v in range(vectors):
                place = out + (4 * BLOCK_TOKENS * t + 4 * lanes * v)
                score = acc[t * vectors + v] * scale
                s.store(place, s.load_f32(place) + score if adds else score)

    @device
    def scores(q, keys, ahead, out):
        for i in range(n_passes):
            token = i * lanes * vectors
            acc = zeros()
            place = keys + _SCALES_BYTES * n_blocks + (token // 16) * group_bytes + token % 16 * 4
            for b in range(n_blocks):
                scales = keys + _SCALES_BYTES * b + 2 * token
                acc = step(acc, q + 64 * b, q + starts + 4 * b, scales, place + part * b, ahead)
            store(out + 4 * token, q, acc)

    return scores


def build_values(isa: Isa, head_dim: int, columns: int, kv: KVType) -> Callable:
    """`values(weights, values, ahead, results, n)`: adds a block's first n values, weighted, to each column's result.

    One exact integer for each dimension, and one fused multiply-add to what was there times the result's factor. The
    weights of the tokens from n on are zero.
    """
    emitted = simd.emitter_for(isa)
    products = ExactProducts(isa, kv.bits)
    lanes, n_blocks, result_bytes = isa.lanes, head_dim // 32, column_bytes(head_dim)
    part, signed = 256 * kv.bits, kv.bits == 8
    slices = _slices(lanes, kv.bits)
    at_once = 1 if products.signed_only else 2  # slices in registers at once

    def quantise(s, weights, scales, planes):
        """Weights times scales as integers into the planes, 128 bytes a column.

        Returns the scale of each column, and what its sums start from.
        """
        scale = [s.load_f16(scales + 32 * v) for v in range(4)]
        shares = []
        for t in range(columns):
            w = [s.load_f32(weights + (4 * BLOCK_TOKENS * t + 64 * v)) for v in range(4)]
            zero = s.zero_f32()  # where nothing was stored, the scale may be anything
            shares.append([s.select_greater(w[v], zero, w[v] * scale[v], zero) for v in range(4)])
        largest = reduce_together(s, [_largest(s, column, negative=not signed) for column in shares], s.maximum)
        starts = []
        for t in range(columns):
            tiny = s.like(largest[t], _NEGLIGIBLE)
            inverse = s.select_greater(largest[t], tiny, s.like(tiny, products.largest) / largest[t], s.zero_f32())
            q = [s.bitcast(s.fma(v, inverse, s.like(v, _ROUND)), I32, 16) for v in shares[t]]
            starts.append((q[0] + q[1]) + (q[2] + q[3]))
            if products.signed_only:
                q = [products.take_low_carry(v) for v in q]
            for i, word in enumerate(products.words(s, q)):
                s.store(planes + (128 * t + 64 * i), word)
        column_scales = [s.first_lane(v) * (1 / products.largest) for v in largest]
        if signed:
            return column_scales, [s.constant(I32, 0)] * columns
        totals = [s.first_lane(v) for v in reduce_together(s, starts, lambda a, b: a + b)]
        return column_scales, [(s.like(v, _ROUNDS) - v) << 3 for v in totals]

    @emitted(types.void, INTP, INTP, INTP, INTP, INTP, INTP)
    def add(s, weights, scales, values, ahead, results, at):
        planes = weights + _PLANES
        for line in range(0, _SCALES_BYTES, 64):
            s.prefetch(scales + ahead + line, 64)
        column_scales, starts = quantise(s.narrow(16), weights, scales, planes)
        for first in range(0, len(slices), at_once):
            here = slices[first : first + at_once]
            sums = [[products.start(s, s.splat(starts[t])) for _ in here] for t in range(columns)]
            for word in range(16):
                places = {offset: values + (part // 16 * word + offset) for offset, _, _ in here}
                loaded = {offset: products.load(s, place, signed=signed) for offset, place in places.items()}
                for offset, place in places.items():
                    if offset % 64 == 0 and here[0][1] == 0:
                        s.prefetch(place + ahead, 64)
                for t in range(columns):
                    words = tuple(s.broadcast_nth(I32, planes + (128 * t + 64 * i), word) for i in range(2))
                    for i, (offset, which, _) in enumerate(here):
                        products.add(s, sums[t][i], loaded[offset][which], words, signed=signed)
            for t in range(columns):
                scale, factor = s.splat(column_scales[t]), s.broadcast_f32(results + (t * result_bytes + 8))
                for i, (_, _, dimension) in enumerate(here):
                    place = results + at + (t * result_bytes + 64 + 4 * dimension)
                    s.store(place, s.fma(s.to_f32(products.total(sums[t][i])), scale, s.load_f32(place) * factor))

    @device
    def values(weights, source, ahead, results, n):
        for b in range(n_blocks):
            scales = source + _SCALES_BYTES * b
            add(weights, scales, source + _SCALES_BYTES * n_blocks + part * b, ahead, results, 128 * b)

    return values


def _slices(lanes: int, bits: int) -> list[tuple[int, int, int]]:
    """`lanes` of 32 dimensions at a time: bytes from the first, which of the nibbles there, and first dimension."""
    per_byte = 8 // bits
    return [
        (4 * first, which, first + 16 * which) for first in range(0, 32 // per_byte, lanes) for which in range(per_byte)
    ]


def _largest(s: Emitter, v: list[V], *, negative: bool) -> V:
    """The largest magnitude of four vectors, lane by lane; `negative` tells whether there may be negative numbers."""
    a, b, c, d = (s.absolute(x) for x in v) if negative else v
    return s.maximum(s.maximum(a, b), s.maximum(c, d))
