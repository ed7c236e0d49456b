"""What the kernels compute, written down naively in float64."""

from dataclasses import dataclass

import numpy as np


def quantise(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Activations (n_tokens, n) float32 as int32 (n_tokens, n) of one byte and float32 scales (n_tokens, n / 16).

    The scale is the largest magnitude of sixteen values over 127; float32 throughout, so that kernels can be held to
    the bit.
    """
    blocks = x.reshape(len(x), -1, 16)
    largest = np.abs(blocks).max(axis=-1)
    inverse = np.where(largest > 0, np.float32(127), np.float32(0)) / np.where(largest > 0, largest, np.float32(1))
    quants = np.rint(blocks * inverse[..., None]).astype(np.int32)
    return quants.reshape(x.shape), largest * np.float32(1 / 127)


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

    def stored_keys(self) -> np.ndarray:
        """The keys as the cache holds them: sixteen tokens side by side."""
        n_blocks, n_heads, tokens, head_dim = self.keys.shape
        tiles = self.keys.reshape(n_blocks, n_heads, tokens // 16, 16, head_dim)
        return np.ascontiguousarray(tiles.swapaxes(-1, -2))

    @classmethod
    def from_stored(cls, keys: np.ndarray, values: np.ndarray) -> "Cache":
        """The reverse of `stored_keys`."""
        n_blocks, n_heads, tiles, head_dim, _ = keys.shape
        return cls(keys.swapaxes(-1, -2).reshape(n_blocks, n_heads, tiles * 16, head_dim), values)


def attention(
    q: np.ndarray, cache: Cache, positions: np.ndarray, sequences: np.ndarray, tables: np.ndarray, *, window: int
) -> np.ndarray:
    """Attention of each token, (n_tokens, n_heads, head_dim) already scaled, over its sequence up to itself."""
    n_tokens, n_heads, _ = q.shape
    group = n_heads // cache.keys.shape[1]
    out = np.empty(q.shape, np.float64)
    for t in range(n_tokens):
        seen = np.arange(max(0, positions[t] - window + 1) if window else 0, positions[t] + 1)
        blocks = tables[sequences[t], seen // 64]
        for head in range(n_heads):
            keys = cache.keys[blocks, head // group, seen % 64].astype(np.float64)
            values = cache.values[blocks, head // group, seen % 64].astype(np.float64)
            scores = keys @ q[t, head].astype(np.float64)
            weights = np.exp(scores - scores.max())
            out[t, head] = weights @ values / weights.sum()
    return out
