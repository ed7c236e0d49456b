"""Gemma 3 (text): norms before and after each part, QK norm, five layers with a sliding window to one without."""

from math import sqrt

from llmrun.runner.architecture import Builder
from llmrun.runner.config import ModelConfig

PERIOD = 6
"""Every sixth layer sees the whole context."""

_LAYERS_OF_27B = 62


def build(b: Builder, config: ModelConfig) -> object:
    """What the logits of a batch are made of."""
    x = b.embed("token_embd.weight", scale=config.n_embd**0.5)
    for i in range(config.n_layers):
        layer = f"blk.{i}."
        is_global = i % PERIOD == PERIOD - 1
        h = b.norm(x, layer + "attn_norm.weight", config.eps)
        q, k, v = b.matmul(h, layer + "attn_q.weight", layer + "attn_k.weight", layer + "attn_v.weight")
        a = b.attention(
            q, k, v, layer=i, head_dim=config.head_dim, n_heads=config.n_heads, n_kv_heads=config.n_kv_heads,
            scale=_query_scale(config), angles="rope" if is_global else "rope_window", rope_dim=config.rope_dim,
            paired=False, window=0 if is_global else config.window, eps=config.eps,
            q_norm=layer + "attn_q_norm.weight", k_norm=layer + "attn_k_norm.weight",
        )  # fmt: skip
        (a,) = b.matmul(a, layer + "attn_output.weight")
        b.add_norm(x, a, layer + "post_attention_norm.weight", config.eps)
        h = b.norm(x, layer + "ffn_norm.weight", config.eps)
        h = b.gated(h, layer + "ffn_gate.weight", layer + "ffn_up.weight", "gelu")
        (h,) = b.matmul(h, layer + "ffn_down.weight")
        b.add_norm(x, h, layer + "post_ffw_norm.weight", config.eps)
    return b.norm(x, "output_norm.weight", config.eps, of_logits=True)


def _query_scale(config: ModelConfig) -> float:
    """1 / sqrt(head_dim); the 27B model was trained with 1 / sqrt(n_embd / n_heads)."""
    if config.n_layers == _LAYERS_OF_27B:
        return 1 / sqrt(config.n_embd / config.n_heads)
    return 1 / sqrt(config.head_dim)
