"""Qwen3 (dense): Qwen2 with an RMS norm on each head of Q and K in place of the biases."""

from llmrun.runner.architecture import Builder
from llmrun.runner.config import ModelConfig


def build(b: Builder, config: ModelConfig) -> object:
    """What the logits of a batch are made of."""
    x = b.embed("token_embd.weight")
    for i in range(config.n_layers):
        layer = f"blk.{i}."
        h = b.norm(x, layer + "attn_norm.weight", config.eps)
        q, k, v = b.matmul(h, layer + "attn_q.weight", layer + "attn_k.weight", layer + "attn_v.weight")
        a = b.attention(
            q, k, v, layer=i, head_dim=config.head_dim, n_heads=config.n_heads, n_kv_heads=config.n_kv_heads,
            scale=config.head_dim**-0.5, angles="rope", rope_dim=config.rope_dim, paired=False, eps=config.eps,
            q_norm=layer + "attn_q_norm.weight", k_norm=layer + "attn_k_norm.weight",
        )  # fmt: skip
        b.add_matmul(x, a, layer + "attn_output.weight")
        h = b.norm(x, layer + "ffn_norm.weight", config.eps)
        h = b.gated(h, layer + "ffn_gate.weight", layer + "ffn_up.weight", "silu")
        b.add_matmul(x, h, layer + "ffn_down.weight")
    return b.norm(x, "output_norm.weight", config.eps, of_logits=True)
