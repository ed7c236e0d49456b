"""What the kernels compute, written down naively in float64."""

import math
from dataclasses import dataclass

import numpy as np

from llmrun.cpu_kernels.kv_types import KVType


def quantise(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Activations (n_tokens, n) float32 as int32 (n_tokens, n) of one byte and float32 scales (n_tokens, n / 16).

    The scale is the largest magnitude of sixteen values over 127, with its last two bits cleared; float32 throughout,
    so that kernels can be held to the bit.
    """
    blocks = x.reshape(len(x), -1, 16)
    largest = np.abs(blocks).max(axis=-1)
    inverse = np.where(largest > 0, np.float32(127), np.float32(0)) / np.where(largest > 0, largest, np.float32(1))
    quants = np.rint(blocks * inverse[..., None]).astype(np.int32)
    scales = ((largest * np.float32(1 / 127)).view(np.int32) & -4).view(np.float32)
    return quants.reshape(x.shape), scales


def quantised_values(x: np.ndarray, layout: str) -> np.ndarray:
    """The activations (n_tokens, n) that a product sees, float64."""
    if layout == "f32":
        return x.astype(np.float64)
    quants, scales = quantise(x)
    return quants * np.repeat(scales.astype(np.float64), 16, axis=-1)


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    """RMS norm of rows."""
    x = x.astype(np.float64)
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps) * weight


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float) -> np.ndarray:
    """Layer norm of rows."""
    x = x.astype(np.float64)
    return (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + eps) * weight + bias


def exact_gelu(x: np.ndarray) -> np.ndarray:
    """Return x times the normal distribution function of x."""
    return x * np.vectorize(lambda z: 0.5 * math.erfc(-z / math.sqrt(2)))(x.astype(np.float64))


def silu(x: np.ndarray) -> np.ndarray:
    """Return x times the logistic function of x."""
    return x * sigmoid(x)


def gelu(x: np.ndarray) -> np.ndarray:
    """GELU in its tanh form; 0.5 (1 + tanh u) is the logistic function of 2 u."""
    return x * sigmoid(2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + e**-x) without overflow."""
    return np.where(x >= 0, 1, np.exp(np.minimum(x, 0))) / (1 + np.exp(-np.abs(x)))


def rope(x: np.ndarray, angles: np.ndarray, *, paired: bool) -> np.ndarray:
    """Turn the first dimensions of each head.

    x (n_tokens, n_heads, head_dim); angles (n_tokens, rope_dim / 2) radians.
    """
    half = angles.shape[1]
    first = np.arange(0, 2 * half, 2) if paired else np.arange(half)
    second = first + (1 if paired else half)
    cosine, sine = np.cos(angles)[:, None], np.sin(angles)[:, None]
    out = x.astype(np.float64)
    a, b = out[..., first], out[..., second]
    out[..., first], out[..., second] = a * cosine - b * sine, b * cosine + a * sine
    return out


@dataclass(frozen=True)
class Cache:
    """Keys and values (n_blocks, n_kv_heads, 64, head_dim) float16, one row a token."""

    keys: np.ndarray
    values: np.ndarray

    def floats(self) -> "Cache":
        """What the halfs stand for."""
        return self

    def stored_keys(self) -> np.ndarray:
        """The keys as the cache holds them: sixteen tokens side by side."""
        n_blocks, n_heads, tokens, head_dim = self.keys.shape
        tiles = self.keys.reshape(n_blocks, n_heads, tokens // 16, 16, head_dim)
        return np.ascontiguousarray(tiles.swapaxes(-1, -2))

    def stored_values(self) -> np.ndarray:
        """The values as the cache holds them: as they are."""
        return self.values

    @classmethod
    def from_stored(cls, keys: np.ndarray, values: np.ndarray) -> "Cache":
        """The reverse of `stored_keys`."""
        n_blocks, n_heads, tiles, head_dim, _ = keys.shape
        return cls(keys.swapaxes(-1, -2).reshape(n_blocks, n_heads, tiles * 16, head_dim), values)


@dataclass(frozen=True)
class ByteCache:
    """Keys and values (n_blocks, n_kv_heads, 64, head_dim) int8, with a scale (..., head_dim / 32) float16 for 32.

    They are numbers of 8 or 4 bits, as the type says.
    """

    kv: KVType
    keys: np.ndarray
    values: np.ndarray
    key_scales: np.ndarray
    value_scales: np.ndarray

    @classmethod
    def of(cls, cache: Cache, kv: KVType) -> "ByteCache":
        """Quantise, what is turned after that; what is not a number gets scales that are not."""
        keys, key_scales = numbers_and_scales(turned(cache.keys.astype(np.float32)), kv.bits)
        wide = cache.values.astype(np.float32)
        values, value_scales = numbers_and_scales(turned(wide) if kv.turns_values else wide, kv.bits)
        return cls(kv, keys, values, key_scales, value_scales)

    def floats(self) -> Cache:
        """What the numbers stand for."""
        pairs = ((self.keys, self.key_scales), (self.values, self.value_scales))
        keys, values = (numbers * np.repeat(scales.astype(np.float64), 32, axis=-1) for numbers, scales in pairs)
        return Cache(turned(keys) / 32, turned(values) / 32 if self.kv.turns_values else values)

    def stored_keys(self) -> np.ndarray:
        """As the cache holds them: scales, then four bytes of sixteen tokens, bytes with 128 added; uint8."""
        packed = self.keys.view(np.uint8) ^ 128 if self.kv.bits == 8 else _nibbles(self.keys)
        n_blocks, n_heads, _, n = packed.shape
        return _with_scales(self.key_scales, packed.reshape(n_blocks, n_heads, 4, 16, n // 4, 4).swapaxes(3, 4))

    def stored_values(self) -> np.ndarray:
        """As the cache holds them: scales, then one byte of four tokens, 16 apart; uint8."""
        packed = self.values.view(np.uint8) if self.kv.bits == 8 else _nibbles(self.values)
        n_blocks, n_heads, _, n = packed.shape
        width = 4 * self.kv.bits  # bytes of 32 values
        words = packed.reshape(n_blocks, n_heads, 4, 16, n // width, width)
        return _with_scales(self.value_scales, words.transpose(0, 1, 4, 3, 5, 2))

    @classmethod
    def from_stored(cls, kv: KVType, keys: np.ndarray, values: np.ndarray, head_dim: int) -> "ByteCache":
        """The reverse of the two."""
        n_blocks, n_heads, _ = keys.shape
        n_scales = 128 * (head_dim // 32)
        scales = [
            array[..., :n_scales].copy().view(np.float16).reshape(n_blocks, n_heads, -1, 64).swapaxes(2, 3)
            for array in (keys, values)
        ]
        shape, width = (n_blocks, n_heads, 64, -1), 4 * kv.bits
        key_words = keys[..., n_scales:].reshape(n_blocks, n_heads, 4, -1, 16, 4).swapaxes(3, 4)
        value_words = values[..., n_scales:].reshape(n_blocks, n_heads, -1, 16, width, 4).transpose(0, 1, 5, 3, 2, 4)
        packed_keys, packed_values = (np.ascontiguousarray(words).reshape(shape) for words in (key_words, value_words))
        return cls(
            kv,
            (packed_keys ^ 128).view(np.int8) if kv.bits == 8 else _from_nibbles(packed_keys),
            packed_values.view(np.int8) if kv.bits == 8 else _from_nibbles(packed_values),
            *scales,
        )


def _nibbles(numbers: np.ndarray) -> np.ndarray:
    """Rows of -8..7 as bytes: the first sixteen of 32 low, the others high, with 8 added."""
    halves = (numbers + 8).astype(np.uint8).reshape(*numbers.shape[:-1], -1, 2, 16)
    return (halves[..., 0, :] | (halves[..., 1, :] << 4)).reshape(*numbers.shape[:-1], -1)


def _from_nibbles(packed: np.ndarray) -> np.ndarray:
    sixteens = packed.reshape(*packed.shape[:-1], -1, 16)
    halves = np.stack([sixteens & 15, sixteens >> 4], axis=-2).astype(np.int8) - np.int8(8)
    return halves.reshape(*packed.shape[:-1], -1)


def _with_scales(scales: np.ndarray, words: np.ndarray) -> np.ndarray:
    n_blocks, n_heads = scales.shape[:2]
    first = np.ascontiguousarray(scales.swapaxes(2, 3)).view(np.uint8).reshape(n_blocks, n_heads, -1)
    return np.concatenate([first, words.reshape(n_blocks, n_heads, -1)], axis=-1)


def turned(x: np.ndarray) -> np.ndarray:
    """Rows (..., n) multiplied with the Hadamard matrix of 32, which is its own inverse but for a factor of 32."""
    blocks = x.reshape(*x.shape[:-1], -1, 32)
    for apart in (16, 8, 4, 2, 1):
        pairs = blocks.reshape(*blocks.shape[:-1], -1, 2, apart)
        a, b = pairs[..., 0, :], pairs[..., 1, :]
        blocks = np.stack([a + b, a - b], axis=-2).reshape(blocks.shape)
    return blocks.reshape(x.shape)


def numbers_and_scales(x: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of floats as int8 (..., n) and float16 scales (..., n / 32), float32 throughout.

    Numbers of 8 bits are -127..127; of 4 bits -8..7, and the largest is -8.
    """
    blocks = x.reshape(*x.shape[:-1], -1, 32)
    highest, lowest = blocks.max(axis=-1), blocks.min(axis=-1)
    if bits == 8:
        wanted = np.maximum(highest, -lowest) * np.float32(1 / 127)
    else:
        wanted = np.where(highest > -lowest, highest, lowest) * np.float32(-1 / 8)
    scales = wanted.astype(np.float16)
    wide = scales.astype(np.float32)
    inverse = np.where(wide != 0, np.float32(1), np.float32(0)) / np.where(wide != 0, wide, np.float32(1))
    low, high = (-127, 127) if bits == 8 else (-8, 7)
    numbers = np.clip(np.rint(np.nan_to_num(blocks * inverse[..., None])), low, high).astype(np.int8)
    return numbers.reshape(x.shape), scales


def attention(
    q: np.ndarray, cache: Cache, positions: np.ndarray, sequences: np.ndarray, tables: np.ndarray, *, window: int,
    lengths: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Attention of each token, (n_tokens, n_heads, head_dim) already scaled, over its sequence up to itself.

    With `lengths` (n_sequences,), over so many tokens of it.
    """
    n_tokens, n_heads, _ = q.shape
    group = n_heads // cache.keys.shape[1]
    out = np.empty(q.shape, np.float64)
    for t in range(n_tokens):
        end = positions[t] + 1 if lengths is None else lengths[sequences[t]]
        seen = np.arange(max(0, positions[t] - window + 1) if window else 0, end)
        blocks = tables[sequences[t], seen // 64]
        for head in range(n_heads):
            keys = cache.keys[blocks, head // group, seen % 64].astype(np.float64)
            values = cache.values[blocks, head // group, seen % 64].astype(np.float64)
            scores = keys @ q[t, head].astype(np.float64)
            weights = np.exp(scores - scores.max())
            out[t, head] = weights @ values / weights.sum()
    return out
