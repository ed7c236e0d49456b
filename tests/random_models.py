"""Small models with random weights in GGUF files, and what runs tokens through them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from gguf_files import Stored, random_stored, write_gguf

from llmrun.cpu_kernels.step import BLOCK_TOKENS
from llmrun.runner.batch import Batch
from llmrun.runner.model import Model

N_VOCAB, N_EMBD, N_FF, N_HEADS, N_KV_HEADS, HEAD_DIM, CONTEXT = 96, 256, 512, 4, 2, 64, 1024


def write_random_model(
    path: Path, architecture: str, format_name: str, n_layers: int = 2, pooling: int | None = None
) -> Path:
    """Write a llama, qwen2, qwen3 or gemma3 whose matrices have one format; its window, if any, is of 40 tokens."""
    rng = np.random.default_rng(1)
    metadata = {
        "general.architecture": architecture,
        f"{architecture}.block_count": n_layers,
        f"{architecture}.embedding_length": N_EMBD,
        f"{architecture}.feed_forward_length": N_FF,
        f"{architecture}.context_length": CONTEXT,
        f"{architecture}.attention.head_count": N_HEADS,
        f"{architecture}.attention.head_count_kv": N_KV_HEADS,
        f"{architecture}.attention.layer_norm_rms_epsilon": 1e-6,
    }
    if architecture == "gemma3":
        metadata[f"{architecture}.attention.sliding_window"] = 40
    if pooling is not None:
        metadata[f"{architecture}.pooling_type"] = pooling
    tensors: dict[str, Stored | np.ndarray] = {"token_embd.weight": _matrix(format_name, (N_VOCAB, N_EMBD), rng, 1)}
    for i in range(n_layers):
        for name, shape in _layer(architecture).items():
            if len(shape) == 1:
                tensors[f"blk.{i}.{name}"] = rng.normal(1, 0.2, shape).astype(np.float32)
            else:
                tensors[f"blk.{i}.{name}"] = _matrix(format_name, shape, rng, 0.2)
    tensors["output_norm.weight"] = rng.normal(1, 0.2, N_EMBD).astype(np.float32)
    return write_gguf(path, metadata, tensors)


def _matrix(format_name: str, shape: tuple[int, ...], rng: np.random.Generator, scale: float) -> Stored:
    """Random weights, with the sign of each block's scales random too: some formats have mostly positive ones."""
    stored = random_stored(format_name, shape, rng, scale)
    records = stored.rows.reshape(-1, stored.format.block_bytes).view(stored.format.layout)
    signs = rng.choice(np.array([-1, 1], np.float16), (*records.shape, 1))
    for field in ("d", "m", "dmin"):
        if field in (stored.format.layout.names or ()):
            records[field] *= signs
    return stored


def _layer(architecture: str) -> dict[str, tuple[int, ...]]:
    q, kv = N_HEADS * HEAD_DIM, N_KV_HEADS * HEAD_DIM
    shapes: dict[str, tuple[int, ...]] = {
        "attn_norm.weight": (N_EMBD,), "attn_q.weight": (q, N_EMBD), "attn_k.weight": (kv, N_EMBD),
        "attn_v.weight": (kv, N_EMBD), "attn_output.weight": (N_EMBD, q), "ffn_norm.weight": (N_EMBD,),
        "ffn_gate.weight": (N_FF, N_EMBD), "ffn_up.weight": (N_FF, N_EMBD), "ffn_down.weight": (N_EMBD, N_FF),
    }  # fmt: skip
    if architecture == "qwen2":
        shapes |= {"attn_q.bias": (q,), "attn_k.bias": (kv,), "attn_v.bias": (kv,)}
    if architecture in ("qwen3", "gemma3"):
        shapes |= {"attn_q_norm.weight": (HEAD_DIM,), "attn_k_norm.weight": (HEAD_DIM,)}
    if architecture == "gemma3":
        shapes |= {"post_attention_norm.weight": (N_EMBD,), "post_ffw_norm.weight": (N_EMBD,)}
    return shapes


RESIDUALS = 64
"""So many blocks further are the residuals of a block, of a model that keeps them."""


def batch(*parts: tuple[np.ndarray, int, Sequence[int]]) -> Batch:
    """Make a batch that wants all logits: for each sequence its next tokens, their first position and its blocks."""
    longest = max(len(blocks) for _, _, blocks in parts)
    tables = np.full((len(parts), longest), -1, np.int32)
    for row, (_, _, blocks) in zip(tables, parts, strict=True):
        row[: len(blocks)] = blocks
    n_tokens = sum(len(tokens) for tokens, _, _ in parts)
    return Batch(
        tokens=np.concatenate([tokens for tokens, _, _ in parts]).astype(np.int32),
        positions=np.concatenate([np.arange(at, at + len(tokens), dtype=np.int32) for tokens, at, _ in parts]),
        sequence=np.repeat(np.arange(len(parts), dtype=np.int32), [len(tokens) for tokens, _, _ in parts]),
        block_tables=tables,
        logit_rows=np.arange(n_tokens, dtype=np.int32),
        residual_tables=np.where(tables < 0, tables, tables + np.int32(RESIDUALS)),
    )


def all_logits(model: Model, tokens: np.ndarray, *, chunk: int, first_block: int = 0) -> np.ndarray:
    """Logits (n_tokens, n_vocab) after every token of one sequence, `chunk` tokens a forward pass."""
    blocks = range(first_block, first_block - (-len(tokens) // BLOCK_TOKENS))
    return np.concatenate(
        [
            model.forward(batch((tokens[start : start + chunk], start, blocks))).copy()
            for start in range(0, len(tokens), chunk)
        ]
    )
