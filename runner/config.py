"""The hyperparameters of a model, read from the metadata of its file."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmrun.cpu_kernels.kv_types import BLOCK_TOKENS, KVType
from llmrun.quant_formats.errors import CorruptFile, MissingMetadata, UnsupportedModel

if TYPE_CHECKING:
    from llmrun.quant_formats.gguf_file import GGUFFile


ENCODERS = frozenset({"bert"})
"""Architectures whose tokens see their whole text."""

POOLINGS = ("none", "mean", "cls", "last", "rank")
"""`<architecture>.pooling_type` as the GGUF specification numbers it."""


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and constants; the names are the field's usual ones."""

    architecture: str
    name: str
    n_layers: int
    n_embd: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    n_ff: int
    n_vocab: int
    n_ctx_train: int
    eps: float  # of RMS norm, and of layer norm
    rope_dim: int
    rope_theta: float
    rope_factor: float  # positions are divided by it (linear scaling); 1 where there is none
    rope_theta_window: float  # of the layers with a sliding window
    window: int  # tokens that such a layer sees; 0 where no layer has one
    is_causal: bool = True  # whether a token sees only those before it; else the model is an encoder and writes nothing
    pooling: str | None = None  # how a text becomes one vector, a name of POOLINGS; None where the file does not say

    @classmethod
    def from_gguf(cls, gguf: "GGUFFile") -> "ModelConfig":
        """Read and check the metadata of a file."""
        read = _Reader(str(gguf.path), gguf.architecture, gguf.metadata)
        n_embd, n_heads = read.count("embedding_length"), read.count("attention.head_count")
        head_dim = read.count("attention.key_length", n_embd // n_heads)
        if read.count("attention.value_length", head_dim) != head_dim:
            raise UnsupportedModel(f"{gguf.path}: keys and values of different lengths are not supported")
        is_causal = _is_causal(gguf)
        config = cls(
            architecture=gguf.architecture,
            name=str(gguf.metadata.get("general.name", gguf.path.stem)),
            n_layers=read.count("block_count"),
            n_embd=n_embd,
            n_heads=n_heads,
            n_kv_heads=read.count("attention.head_count_kv", n_heads),
            head_dim=head_dim,
            n_ff=read.count("feed_forward_length"),
            n_vocab=_n_vocab(gguf),
            n_ctx_train=read.count("context_length"),
            eps=read.number(f"attention.layer_norm{'_rms' if is_causal else ''}_epsilon"),
            rope_dim=read.count("rope.dimension_count", head_dim),
            rope_theta=read.number("rope.freq_base", 10_000.0),
            rope_factor=_rope_factor(gguf, read),
            rope_theta_window=read.number("rope.freq_base_swa", 10_000.0),
            window=read.count("attention.sliding_window", 0),
            is_causal=is_causal,
            pooling=_pooling(gguf),
        )
        config._check(str(gguf.path))
        return config

    def _check(self, path: str) -> None:
        if self.n_heads % self.n_kv_heads:
            raise CorruptFile(f"{path}: {self.n_heads} heads cannot share {self.n_kv_heads} key/value heads")
        if self.head_dim % 16 or self.head_dim > 512:
            raise UnsupportedModel(f"{path}: heads of {self.head_dim} values; multiples of 16 up to 512 are supported")
        if self.n_heads // self.n_kv_heads > 64:
            raise UnsupportedModel(f"{path}: more than 64 heads share a key/value head; at most 64 are supported")
        if self.rope_dim % 2 or self.rope_dim > self.head_dim:
            raise CorruptFile(f"{path}: rotary embedding of {self.rope_dim} of {self.head_dim} dimensions")

    def kv_bytes_per_token(self, kv: KVType) -> int:
        """Bytes that the keys and values of one token take."""
        return self.n_layers * self.n_kv_heads * 2 * kv.head_bytes(self.head_dim) // BLOCK_TOKENS


class _Reader:
    """Reads the keys of one architecture."""

    def __init__(self, path: str, architecture: str, metadata: Mapping[str, object]):
        self.path, self.architecture, self.metadata = path, architecture, metadata

    def _value(self, key: str, default: float | None) -> object:
        value = self.metadata.get(f"{self.architecture}.{key}", default)
        if value is None:
            raise MissingMetadata(f"{self.path}: the metadata has no {self.architecture}.{key}; convert the file again")
        return value

    def count(self, key: str, default: int | None = None) -> int:
        """A whole number; positive, or the default."""
        value = self._value(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0 or (value == 0 and default != 0):
            raise UnsupportedModel(
                f"{self.path}: {self.architecture}.{key} is {str(value)[:40]}; one positive whole number is supported"
            )
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A positive number."""
        value = self._value(key, default)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < 1e30:
            raise CorruptFile(f"{self.path}: {self.architecture}.{key} is {str(value)[:40]}, not a positive number")
        return float(value)


def _n_vocab(gguf: "GGUFFile") -> int:
    from llmrun.quant_formats.errors import MissingTensor

    if "token_embd.weight" not in gguf.tensors:
        raise MissingTensor(f"{gguf.path}: the tensor token_embd.weight is missing; download or convert the file again")
    return gguf.tensors["token_embd.weight"].shape[0]


def _is_causal(gguf: "GGUFFile") -> bool:
    is_causal = gguf.architecture not in ENCODERS
    if gguf.metadata.get(f"{gguf.architecture}.attention.causal", is_causal) != is_causal:
        kind = "a decoder" if is_causal else "an encoder"
        raise UnsupportedModel(f"{gguf.path}: {gguf.architecture} is supported as {kind} only")
    return is_causal


def _pooling(gguf: "GGUFFile") -> str | None:
    key = f"{gguf.architecture}.pooling_type"
    value = gguf.metadata.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or not 0 <= value < len(POOLINGS):
        raise CorruptFile(f"{gguf.path}: {key} is {str(value)[:40]}, not a number from 0 to {len(POOLINGS) - 1}")
    return POOLINGS[value]


def _rope_factor(gguf: "GGUFFile", read: _Reader) -> float:
    kind = gguf.metadata.get(f"{gguf.architecture}.rope.scaling.type", "none")
    if kind == "none":
        return read.number("rope.scale_linear", 1.0)
    if kind == "linear":
        return read.number("rope.scaling.factor")
    raise UnsupportedModel(
        f"{gguf.path}: rope scaling of type {str(kind)[:40]!r}; none, linear and llama3 are supported"
    )
