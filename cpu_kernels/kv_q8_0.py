"""Keys and values as bytes, with one half as the scale of 32 values: value = scale x byte, byte in -127..127.

The scales of a head come first, token after token. Keys lie sixteen tokens side by side, four dimensions in a word,
with 128 added; of values, a word holds one dimension of four tokens: token t is byte t / 16 of word t % 16.

    keys    (n_kv_heads, [(head_dim / 32, 64) scales, (64 / 16, head_dim / 4, 16, 4) uint8])
    values  (n_kv_heads, [(head_dim / 32, 64) scales, (head_dim / 32, 16, 32, 4) int8])

Keys and queries are turned before by a Hadamard matrix, 32 dimensions at a time. That leaves their products as they
are, times 32, and spreads the few dimensions that are much larger than the others, which would make the scale coarse.

Products are exact integers. A query is quantised to 16 bits with one scale for the head; the weights of a block times
the scales of its values to 15 bits, with one scale for the block. Both are far finer than the bytes they meet.
"""

from collections.abc import Callable

from numba import types

from llmrun.cpu_kernels import simd
from llmrun.cpu_kernels.attention_softmax import reduce_together
from llmrun.cpu_kernels.isa import Isa
from llmrun.cpu_kernels.jit import device
from llmrun.cpu_kernels.memory import load_f16, store_f16
from llmrun.cpu_kernels.simd import Emitter
from llmrun.cpu_kernels.step import BLOCK_TOKENS, TILE, column_bytes
from llmrun.cpu_kernels.vector import FLOAT, I8, I16, I32, INTP, V, f32_tile

_LARGEST = 32512.0  # 127 x 256
_NEGLIGIBLE = 1e-30  # the largest weight times scale of a block that counts as nothing; its inverse is finite
_ROUND = 12582912.0  # adding 1.5 x 2**23 leaves the rounded number in the low bits
_SCALES_BYTES = 2 * BLOCK_TOKENS  # of 32 dimensions
_PLANES = 4 * BLOCK_TOKENS * TILE  # where the weights as integers are, behind those as floats


def build_store(isa: Isa) -> Callable:
    """`store(k, v, keys, values, slot, n)`: n floats each of a key and a value become token `slot` of a block.

    The key is turned in place.
    """
    emitted = simd.emitter_for(isa, 16)

    @emitted(types.void, INTP)
    def turn(s, source):
        for i, v in enumerate(_turned(s, [s.load_f32(source + 64 * i) for i in range(2)])):
            s.store(source + 64 * i, v)

    @emitted(types.float32, INTP)
    def largest(s, source):
        return s.reduce(s.maximum(*(s.absolute(s.load_f32(source + 64 * i)) for i in range(2))), s.maximum)

    def rounded(s, source, inverse):
        """32 floats as bytes, (16 x i8) twice; the scale is a rounded half, so the largest may reach beyond 127."""
        for i in range(2):
            q = s.round_even(s.load_f32(source + 64 * i) * s.splat(inverse))
            q = s.minimum(s.maximum(q, s.like(q, -127.0)), s.like(q, 127.0))
            yield s.truncate(s.to_i32(q), I8)

    @emitted(types.void, INTP, types.float32, INTP)
    def store_key(s, source, inverse, target):
        for i, q in enumerate(rounded(s, source, inverse)):
            words = s.bitcast(q ^ -128, I32, 4)
            for j in range(4):
                s.store(target + 64 * (4 * i + j), s.first_lane(s.shuffle(words, words, [j])))

    @emitted(types.void, INTP, types.float32, INTP)
    def store_value(s, source, inverse, target):
        for i, q in enumerate(rounded(s, source, inverse)):
            for j in range(16):
                s.store(target + 4 * (16 * i + j), s.first_lane(s.shuffle(q, q, [j])))

    @device
    def store_scale(source, target):
        """Store the scale of 32 floats; returns what turns them into bytes."""
        store_f16(target, largest(source) * types.float32(1 / 127))
        scale = load_f16(target)
        return types.float32(1) / scale if scale > types.float32(0) else types.float32(0)

    @device
    def store(k, v, keys, values, slot, n):
        n_blocks = n // 32
        key = keys + _SCALES_BYTES * n_blocks + (slot // 16) * (16 * n) + slot % 16 * 4
        value = values + _SCALES_BYTES * n_blocks + slot % 16 * 128 + slot // 16
        for b in range(n_blocks):
            scale = _SCALES_BYTES * b + 2 * slot
            turn(k + 128 * b)
            store_key(k + 128 * b, store_scale(k + 128 * b, keys + scale), key + 512 * b)
            store_value(v + 128 * b, store_scale(v + 128 * b, values + scale), value + 2048 * b)

    return store


def _turned(s: Emitter, v: list[V]) -> list[V]:
    """The 32 values of two vectors, multiplied with the Hadamard matrix: sums and differences of pairs, five times."""
    a, b = v[0] + v[1], v[0] - v[1]
    for apart in (8, 4, 2, 1):
        signs = s.constants(FLOAT, [-1 if lane & apart else 1 for lane in range(16)])
        swapped = [lane ^ apart for lane in range(16)]
        a, b = (x * signs + s.shuffle(x, x, swapped) for x in (a, b))
    return [a, b]


class _Pairs:
    """Products of bytes with integers of 16 bits, four at a time: by two byte products, or by two of 16 bits.

    The integers of four bytes take two words: their high bytes and their low bytes, or the first and third, and the
    second and fourth. Where only signed bytes can be multiplied, 128 is taken from unsigned ones, and low bytes are
    made signed.
    """

    def __init__(self, isa: Isa):
        self.signed_only = simd.multiplies_signed(isa)
        self.by_bytes = self.signed_only or isa.dot.startswith("vnni")

    def words(self, s: Emitter, q: list[V]) -> list[V]:
        """The two words of the integers in the low halves of q[0] to q[3], for each lane; what is above is ignored."""
        first, second = ((q[i] & 0xFFFF) | (q[i + 2] << 16) for i in range(2))
        if not self.by_bytes:
            return [first, second]
        low_bytes, high_bytes = s.like(first, 0x00FF00FF), s.like(first, 0xFF00FF00 - (1 << 32))
        return [
            ((first >> 8) & low_bytes) | (second & high_bytes),
            (first & low_bytes) | ((second & low_bytes) << 8),
        ]

    def take_low_carry(self, q: V) -> V:
        """Signed integers so that the high byte, signed, and the low byte, signed, make them up."""
        return q + ((q & 128) << 1) if self.by_bytes else q

    def sums(self, n: int, start: V, zero: V) -> list[list[V]]:
        """Accumulators of n products that start at a number: what takes back the 128 in unsigned bytes."""
        start = zero if self.signed_only else start
        return [[zero, start] if self.by_bytes else [start] for _ in range(n)]

    def total(self, sums: list[V]) -> V:
        """What accumulators hold."""
        return (sums[0] << 8) + sums[1] if self.by_bytes else sums[0]

    def load(self, s: Emitter, address: V, *, signed: bool) -> list[V]:
        """Four bytes for each lane, as `add` takes them."""
        v = s.load_bytes(address)
        if self.by_bytes:
            return [v ^ -128 if self.signed_only and not signed else v]
        pairs = s.bitcast(v, I16, 2 * s.lanes)
        return [(pairs << 8).arithmetic_shift(8), pairs.arithmetic_shift(8)] if signed else [pairs & 255, pairs >> 8]

    def add(self, s: Emitter, sums: list[V], v: list[V], words: tuple[V, V], *, signed: bool) -> None:
        """Add the products of the bytes v with the integers in two words; `signed` tells whether the bytes are."""
        for i, word in enumerate(words):
            if not self.by_bytes:
                sums[0] = s.dot_i16(sums[0], v[i], s.as_i16_pairs(word))
            else:
                w = s.bitcast(word, I8, 4 * s.lanes)
                sums[i] = s.dot_u8(sums[i], w, v[0]) if signed else s.dot_u8(sums[i], v[0], w)


def build_take(isa: Isa, head_dim: int) -> Callable:
    """`take(q, column, scale)`: the query of a head, times `scale`, as `scores` reads it.

    Two words for four dimensions, then -128 times the sum of 32 integers for each 32 dimensions, then the scale.
    """
    emitted = simd.emitter_for(isa, 16)
    pairs = _Pairs(isa)
    starts = 2 * head_dim

    @emitted(types.void, INTP, INTP, types.float32)
    def take(s, q, column, scale):
        values = []
        for i in range(0, head_dim // 16, 2):
            pair = [s.load_f32(q + 64 * (i + j)) * s.splat(scale) for j in range(2)]
            values += [v * (1 / 32) for v in _turned(s, pair)]
        largest = s.absolute(values[0])
        for v in values[1:]:
            largest = s.maximum(largest, s.absolute(v))
        largest = s.reduce(largest, s.maximum)
        tiny = s.like(largest, _NEGLIGIBLE)
        inverse = s.select_greater(largest, tiny, s.like(largest, _LARGEST) / largest, s.like(largest, 0.0))
        quants = [s.to_i32(s.round_even(v * s.splat(inverse))) for v in values]
        for i, v in enumerate(quants):
            carried = pairs.take_low_carry(v)
            first, second = pairs.words(s, [s.shuffle(carried, carried, range(j, 16, 4)) for j in range(4)])
            s.store(column + 32 * i, s.shuffle(first, second, [0, 4, 1, 5, 2, 6, 3, 7]))
        for b in range(head_dim // 32):
            total = s.reduce(quants[2 * b] + quants[2 * b + 1], lambda x, y: x + y)
            s.store(column + (starts + 4 * b), s.like(total, 0) - (total << 7))
        s.store(column + (starts + head_dim // 8), largest * (1 / _LARGEST))

    return take


def build_scores(isa: Isa, head_dim: int, columns: int) -> Callable:
    """`scores(q, keys, ahead, out)`: the scores of a block's tokens, 64 floats a column.

    One fused multiply-add for every 32 dimensions, in ascending order; lane = token. What lies `ahead` bytes further is
    fetched.
    """
    emitted = simd.emitter_for(isa)
    pairs = _Pairs(isa)
    lanes = isa.lanes
    vectors = 2 if lanes == 16 else 1  # of `lanes` tokens, in registers at once
    n_passes = BLOCK_TOKENS // (lanes * vectors)
    tile = f32_tile(lanes, columns * vectors)
    n_blocks, group_bytes, q_bytes, starts = head_dim // 32, 16 * head_dim, 4 * head_dim, 2 * head_dim

    @emitted(tile)
    def zeros(s):
        return [s.zero_f32()] * (columns * vectors)

    @emitted(tile, tile, INTP, INTP, INTP, INTP, INTP)
    def step(s, acc, q, start, scales, keys, ahead):
        s.prefetch(scales + ahead, 64)
        sums = [pairs.sums(vectors, s.broadcast_i32(start + q_bytes * t), s.zero_i32()) for t in range(columns)]
        for word in range(8):
            k = []
            for v in range(vectors):
                k.append(pairs.load(s, keys + (v * group_bytes + 64 * word), signed=False))
                s.prefetch(keys + ahead + (v * group_bytes + 64 * word), 64)
            for t in range(columns):
                words = tuple(s.broadcast_nth(I32, q + q_bytes * t, 2 * word + i) for i in range(2))
                for v in range(vectors):
                    pairs.add(s, sums[t][v], k[v], words, signed=False)
        scale = [s.load_f16(scales + 2 * lanes * v) for v in range(vectors)]
        return [
            s.fma(s.to_f32(pairs.total(sums[t][v])), scale[v], acc[t * vectors + v])
            for t in range(columns)
            for v in range(vectors)
        ]

    @emitted(types.void, INTP, INTP, tile)
    def store(s, out, q, acc):
        for t in range(columns):
            scale = s.broadcast_f32(q + (q_bytes * t + starts + head_dim // 8))
            for v in range(vectors):
                s.store(out + (4 * BLOCK_TOKENS * t + 4 * lanes * v), acc[t * vectors + v] * scale)

    @device
    def scores(q, keys, ahead, out):
        for i in range(n_passes):
            token = i * lanes * vectors
            acc = zeros()
            place = keys + _SCALES_BYTES * n_blocks + (token // 16) * group_bytes + token % 16 * 4
            for b in range(n_blocks):
                scales = keys + _SCALES_BYTES * b + 2 * token
                acc = step(acc, q + 64 * b, q + starts + 4 * b, scales, place + 512 * b, ahead)
            store(out + 4 * token, q, acc)

    return scores


def build_values(isa: Isa, head_dim: int, columns: int) -> Callable:
    """`values(weights, values, ahead, results, n)`: adds a block's first n values, weighted, to each column's result.

    One exact integer for each dimension, and one fused multiply-add to what was there times the result's factor. The
    weights of the tokens from n on are zero.
    """
    emitted = simd.emitter_for(isa)
    pairs = _Pairs(isa)
    lanes, n_blocks, result_bytes = isa.lanes, head_dim // 32, column_bytes(head_dim)
    vectors = 1 if pairs.signed_only else 2  # of `lanes` dimensions, in registers at once

    def quantise(s, weights, scales, planes):
        """Weights times scales as integers into the planes, 128 bytes a column; returns the scale of each column."""
        scale = [s.load_f16(scales + 32 * v) for v in range(4)]
        shares = []
        for t in range(columns):
            w = [s.load_f32(weights + (4 * BLOCK_TOKENS * t + 64 * v)) for v in range(4)]
            zero = s.zero_f32()  # where nothing was stored, the scale may be anything
            shares.append([s.select_greater(w[v], zero, w[v] * scale[v], zero) for v in range(4)])
        maxima = [s.maximum(s.maximum(a, b), s.maximum(c, d)) for a, b, c, d in shares]
        largest = reduce_together(s, maxima, s.maximum)
        for t in range(columns):
            tiny = s.like(largest[t], _NEGLIGIBLE)
            inverse = s.select_greater(largest[t], tiny, s.like(tiny, _LARGEST) / largest[t], s.zero_f32())
            q = [s.bitcast(s.fma(v, inverse, s.like(v, _ROUND)), I32, 16) for v in shares[t]]
            if pairs.signed_only:
                q = [pairs.take_low_carry(v) for v in q]
            for i, word in enumerate(pairs.words(s, q)):
                s.store(planes + (128 * t + 64 * i), word)
        return [s.first_lane(v) * (1 / _LARGEST) for v in largest]

    @emitted(types.void, INTP, INTP, INTP, INTP, INTP, INTP)
    def add(s, weights, scales, values, ahead, results, at):
        planes = weights + _PLANES
        for line in range(0, _SCALES_BYTES, 64):
            s.prefetch(scales + ahead + line, 64)
        column_scales = quantise(s.narrow(16), weights, scales, planes)
        for first in range(0, 32 // lanes, vectors):
            sums = [pairs.sums(vectors, s.zero_i32(), s.zero_i32()) for _ in range(columns)]
            for word in range(16):
                v = []
                for i in range(vectors):
                    place = values + (128 * word + 4 * lanes * (first + i))
                    v.append(pairs.load(s, place, signed=True))
                    if 4 * lanes * (first + i) % 64 == 0:
                        s.prefetch(place + ahead, 64)
                for t in range(columns):
                    words = tuple(s.broadcast_nth(I32, planes + (128 * t + 64 * i), word) for i in range(2))
                    for i in range(vectors):
                        pairs.add(s, sums[t][i], v[i], words, signed=True)
            for t in range(columns):
                scale, factor = s.splat(column_scales[t]), s.broadcast_f32(results + (t * result_bytes + 8))
                for i in range(vectors):
                    place = results + at + (t * result_bytes + 64 + 4 * lanes * (first + i))
                    s.store(place, s.fma(s.to_f32(pairs.total(sums[t][i])), scale, s.load_f32(place) * factor))

    @device
    def values(weights, source, ahead, results, n):
        for b in range(n_blocks):
            scales = source + _SCALES_BYTES * b
            add(weights, scales, source + _SCALES_BYTES * n_blocks + 2048 * b, ahead, results, 128 * b)

    return values
