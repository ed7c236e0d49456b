"""BERT models in GGUF files, with names, vocabulary and metadata as the format's own converter writes them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gguf_files import Stored, quantised, write_gguf

from llmrun.runner.special_tokens import CONTROL, NORMAL

_LAYER = {
    "attention.self.query": "attn_q", "attention.self.key": "attn_k", "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output", "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up", "output.dense": "ffn_down", "output.LayerNorm": "layer_output_norm",
}  # fmt: skip
_TOP = {
    "embeddings.word_embeddings": "token_embd", "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types", "embeddings.LayerNorm": "token_embd_norm",
}  # fmt: skip
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def write_bert(
    path: Path,
    config: Mapping[str, Any],
    weights: Mapping[str, np.ndarray],
    vocabulary: Sequence[str],
    format_name: str,
    **settings: object,
) -> Path:
    """Write a BertModel whose products have one format; `config` and `weights` are those of transformers."""
    metadata: dict[str, object] = {
        "general.architecture": "bert",
        "bert.block_count": config["num_hidden_layers"],
        "bert.context_length": config["max_position_embeddings"],
        "bert.embedding_length": config["hidden_size"],
        "bert.feed_forward_length": config["intermediate_size"],
        "bert.attention.head_count": config["num_attention_heads"],
        "bert.attention.layer_norm_epsilon": float(config["layer_norm_eps"]),
        "bert.attention.causal": False,
        "bert.pooling_type": 1,
        "tokenizer.ggml.token_type_count": config["type_vocab_size"],
        **_tokenizer(vocabulary),
        **settings,
    }
    tensors: dict[str, Stored | np.ndarray] = {}
    for name, values in weights.items():
        if not (gguf_name := _name(name)):
            continue
        is_product = values.ndim == 2 and gguf_name not in ("position_embd.weight", "token_types.weight")
        tensors[gguf_name] = quantised(format_name, values) if is_product else values
    return write_gguf(path, metadata, tensors)


def _name(name: str) -> str | None:
    name = name.removeprefix("bert.")
    if name.startswith("encoder.layer."):
        i, rest = name.removeprefix("encoder.layer.").split(".", 1)
        stem, _, ending = rest.rpartition(".")
        return f"blk.{i}.{_LAYER[stem]}.{ending}"
    stem, _, ending = name.rpartition(".")
    return f"{_TOP[stem]}.{ending}" if stem in _TOP else None  # the pooler is not used, nor position_ids stored


def _tokenizer(vocabulary: Sequence[str]) -> dict[str, object]:
    def stored(text: str) -> str:
        if text in _SPECIAL:
            return text
        return text[2:] if text.startswith("##") else f"▁{text}"

    types = [CONTROL if text in _SPECIAL else NORMAL for text in vocabulary]
    ids = {"unknown": "[UNK]", "cls": "[CLS]", "seperator": "[SEP]", "padding": "[PAD]", "mask": "[MASK]"}
    return {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.tokens": [stored(text) for text in vocabulary],
        "tokenizer.ggml.token_type": np.array(types, np.int32),
        **{f"tokenizer.ggml.{key}_token_id": vocabulary.index(text) for key, text in ids.items()},
    }
