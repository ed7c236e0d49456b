"""BERT (Devlin et al., arXiv 1810.04805): an encoder, with learned positions and layer norm behind each part."""

from llmrun.runner.architecture import Builder
from llmrun.runner.config import ModelConfig


def build(b: Builder, config: ModelConfig) -> object:
    """The hidden states of the last layer."""
    x = b.embed("token_embd.weight")
    b.add(x, b.embed("token_types.weight", of="types"))
    b.add(x, b.embed("position_embd.weight", of="positions"))
    x = b.layer_norm(x, "token_embd_norm", config.eps)
    for i in range(config.n_layers):
        layer = f"blk.{i}."
        q, k, v = b.matmul(x, layer + "attn_q.weight", layer + "attn_k.weight", layer + "attn_v.weight")
        a = b.attention(
            q, k, v, layer=i, head_dim=config.head_dim, n_heads=config.n_heads, n_kv_heads=config.n_kv_heads,
            scale=config.head_dim**-0.5, angles="", rope_dim=0, paired=False, causal=False,
            q_bias=layer + "attn_q.bias", k_bias=layer + "attn_k.bias", v_bias=layer + "attn_v.bias",
        )  # fmt: skip
        b.add_matmul(x, a, layer + "attn_output.weight")
        b.add_bias(x, layer + "attn_output.bias")
        x = b.layer_norm(x, layer + "attn_output_norm", config.eps)
        (h,) = b.matmul(x, layer + "ffn_up.weight")
        b.add_bias(h, layer + "ffn_up.bias")
        b.add_matmul(x, b.gelu(h), layer + "ffn_down.weight")
        b.add_bias(x, layer + "ffn_down.bias")
        x = b.layer_norm(x, layer + "layer_output_norm", config.eps, of_logits=i == config.n_layers - 1)
    return x
