"""What a GGUF file says about its model, read from the header alone, so that it works for any architecture."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmrun.cpu_kernels.kv_types import BLOCK_TOKENS, DEFAULT, KV_TYPES
from llmrun.quant_formats.gguf_file import GGUFFile


@dataclass(frozen=True)
class ModelFacts:
    """The numbers that `show` and `bench` print; None where the file does not say."""

    architecture: str
    name: str | None
    license: str | None
    n_parameters: int
    weight_bytes: int
    read_bytes: int  # weights that one decoded token reads
    formats: dict[str, tuple[int, int]]  # name of a block format -> (tensors, bytes), most bytes first
    n_layers: int | None
    n_embd: int | None
    n_heads: int | None
    n_kv_heads: int | None
    head_dim: int | None
    n_vocab: int | None
    n_ctx: int | None
    sliding_window: int | None
    has_chat_template: bool

    @classmethod
    def from_gguf(cls, gguf: GGUFFile) -> "ModelFacts":
        """Collect the facts of an open file."""
        arch = gguf.architecture
        tensors: Counter[str] = Counter()
        sizes: Counter[str] = Counter()
        for tensor in gguf.tensors.values():
            tensors[tensor.format.name] += 1
            sizes[tensor.format.name] += tensor.n_bytes
        weight_bytes = sizes.total()
        # of the embedding a token reads one row, unless the output uses the same matrix
        unread = gguf.tensors["token_embd.weight"].n_bytes if "output.weight" in gguf.tensors else 0
        n_embd, n_heads = _integer(gguf, f"{arch}.embedding_length"), _integer(gguf, f"{arch}.attention.head_count")
        tokens = gguf.metadata.get("tokenizer.ggml.tokens")
        return cls(
            architecture=arch,
            name=_text(gguf, "general.name"),
            license=_text(gguf, "general.license"),
            n_parameters=sum(int(np.prod(tensor.shape)) for tensor in gguf.tensors.values()),
            weight_bytes=weight_bytes,
            read_bytes=weight_bytes - unread,
            formats={name: (tensors[name], n_bytes) for name, n_bytes in sizes.most_common()},
            n_layers=_integer(gguf, f"{arch}.block_count"),
            n_embd=n_embd,
            n_heads=n_heads,
            n_kv_heads=_integer(gguf, f"{arch}.attention.head_count_kv") or n_heads,
            head_dim=_integer(gguf, f"{arch}.attention.key_length")
            or (n_embd // n_heads if n_embd and n_heads else None),
            n_vocab=len(tokens) if isinstance(tokens, Sequence) else None,
            n_ctx=_integer(gguf, f"{arch}.context_length"),
            sliding_window=_integer(gguf, f"{arch}.attention.sliding_window"),
            has_chat_template="tokenizer.chat_template" in gguf.metadata,
        )

    def kv_bytes(self, n_tokens: int, kv_type: str = DEFAULT) -> int:
        """Memory of the keys and values of `n_tokens` tokens of context; 0 if the file does not give the shapes."""
        if not (self.n_layers and self.n_kv_heads and self.head_dim):
            return 0
        block_bytes = self.n_layers * self.n_kv_heads * 2 * KV_TYPES[kv_type].head_bytes(self.head_dim)
        return block_bytes * n_tokens // BLOCK_TOKENS


def _integer(gguf: GGUFFile, key: str) -> int | None:
    value = gguf.metadata.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(gguf: GGUFFile, key: str) -> str | None:
    value = gguf.metadata.get(key)
    return value if isinstance(value, str) else None
