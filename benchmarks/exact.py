"""What a model computes without any rounding of activations: its dequantised weights in float64, written with numpy.

The third opinion when two runners differ: both quantise activations to eight bits, each in its own way, and the one
that is nearer to this is the better one. Covers llama and gemma3, without rope scaling.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from llmrun.quant_formats.gguf_file import GGUFFile
from llmrun.runner.config import ModelConfig
from llmrun.runner.gemma3 import PERIOD

CHUNK_TOKENS = 128


class ExactModel:
    """Weights in float64."""

    def __init__(self, gguf: GGUFFile) -> None:
        self.config = ModelConfig.from_gguf(gguf)
        assert self.config.architecture in ("llama", "gemma3"), self.config.architecture
        self.is_gemma = self.config.architecture == "gemma3"
        self.weights = {
            name: tensor.format.dequantize(tensor.data).reshape(tensor.shape).astype(np.float64)
            for name, tensor in gguf.tensors.items()
        }

    def prompt_logits(self, tokens: Sequence[int]) -> Iterator[np.ndarray]:
        """The logits after every token of a text, in chunks (n, n_vocab) float64."""
        x = self.weights["token_embd.weight"][list(tokens)]
        if self.is_gemma:
            x = x * self.config.n_embd**0.5
        for layer in range(self.config.n_layers):
            self._layer(x, layer)
        x = self._norm(x, "output_norm.weight")
        output = self.weights.get("output.weight", self.weights["token_embd.weight"])
        for first in range(0, len(tokens), CHUNK_TOKENS):
            yield x[first : first + CHUNK_TOKENS] @ output.T

    def _layer(self, x: np.ndarray, layer: int) -> None:
        name = f"blk.{layer}."
        attention = self._attention(self._norm(x, name + "attn_norm.weight"), layer)
        x += self._norm(attention, name + "post_attention_norm.weight") if self.is_gemma else attention
        h = self._norm(x, name + "ffn_norm.weight")
        gate = h @ self.weights[name + "ffn_gate.weight"].T
        h = (_gelu(gate) if self.is_gemma else _silu(gate)) * (h @ self.weights[name + "ffn_up.weight"].T)
        h = h @ self.weights[name + "ffn_down.weight"].T
        x += self._norm(h, name + "post_ffw_norm.weight") if self.is_gemma else h

    def _attention(self, h: np.ndarray, layer: int) -> np.ndarray:
        config, name, n = self.config, f"blk.{layer}.", len(h)
        q, k, v = ((h @ self.weights[f"{name}attn_{what}.weight"].T).reshape(n, -1, config.head_dim) for what in "qkv")
        is_global = not self.is_gemma or layer % PERIOD == PERIOD - 1
        if self.is_gemma:
            q, k = self._norm(q, name + "attn_q_norm.weight"), self._norm(k, name + "attn_k_norm.weight")
        theta = config.rope_theta if is_global else config.rope_theta_window
        q, k = (_rope(x, theta, paired=not self.is_gemma) for x in (q, k))
        group = config.n_heads // config.n_kv_heads
        k, v = (np.repeat(x, group, axis=1) for x in (k, v))
        scores = np.einsum("qhd,khd->hqk", q, k) * config.head_dim**-0.5
        distance = np.arange(n)[:, None] - np.arange(n)
        hidden = (distance < 0) | (not is_global and distance >= config.window)
        scores[:, hidden] = -np.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return np.einsum("hqk,khd->qhd", weights, v).reshape(n, -1) @ self.weights[name + "attn_output.weight"].T

    def _norm(self, x: np.ndarray, weight: str) -> np.ndarray:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.config.eps) * self.weights[weight]


def _rope(x: np.ndarray, theta: float, paired: bool) -> np.ndarray:
    """Turn x (n, n_heads, head_dim), whose pairs are neighbours (`paired`) or half a head apart."""
    n, _, size = x.shape
    angles = (np.arange(n)[:, None] * theta ** -(np.arange(0, size, 2) / size))[:, None]
    a, b = (x[..., ::2], x[..., 1::2]) if paired else (x[..., : size // 2], x[..., size // 2 :])
    turned = a * np.cos(angles) - b * np.sin(angles), a * np.sin(angles) + b * np.cos(angles)
    return np.stack(turned, -1).reshape(x.shape) if paired else np.concatenate(turned, -1)


def _silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def _gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))
