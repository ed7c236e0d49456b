"""The architectures that llmrun knows, and the vocabulary in which they are written.

An architecture is one file with `build(b, config)`, which says how the last activations of a batch come about; their
product with `output.weight` are the logits. Adding one is that file and a row here.
"""

from typing import Any, Protocol

from llmrun.quant_formats.errors import UnknownArchitecture
from llmrun.runner.config import ModelConfig


class Builder(Protocol):
    """What an architecture is written with; `cpu_kernels.program.ProgramBuilder` lowers it for the CPU.

    Activations (n_tokens, n) are opaque handles; weights go by their names in the file.
    """

    def embed(self, table: str, scale: float = 1.0, of: str = "tokens") -> Any:
        """Rows of an embedding table for the "tokens", "positions" or "types" of the batch."""

    def norm(self, x: Any, weight: str, eps: float, *, of_logits: bool = False) -> Any:
        """RMS norm; with `of_logits` only of the tokens whose logits are wanted."""

    def add_norm(self, x: Any, y: Any, weight: str, eps: float) -> None:
        """x += RMS norm of y."""

    def layer_norm(self, x: Any, name: str, eps: float, *, of_logits: bool = False) -> Any:
        """Layer norm with `name`'s weight and bias; with `of_logits` only of the tokens whose logits are wanted."""

    def add(self, x: Any, y: Any) -> None:
        """x += y."""

    def add_bias(self, x: Any, name: str) -> None:
        """x += a vector."""

    def gelu(self, x: Any) -> Any:
        """GELU of the rows, in their place."""

    def matmul(self, x: Any, *names: str) -> tuple[Any, ...]:
        """The product of the rows with each matrix."""

    def add_matmul(self, x: Any, y: Any, name: str) -> None:
        """x += the product of the rows y with a matrix."""

    def gated(self, x: Any, gate: str, up: str, activation: str) -> Any:
        """activation(gate x) * up x, with "silu" or "gelu"."""

    def attention(
        self, q: Any, k: Any, v: Any, *, layer: int, head_dim: int, n_heads: int, n_kv_heads: int, scale: float,
        angles: str, rope_dim: int, paired: bool, window: int = 0, eps: float = 0.0, q_bias: str = "",
        k_bias: str = "", v_bias: str = "", q_norm: str = "", k_norm: str = "", causal: bool = True,
    ) -> Any:  # fmt: skip
        """Rotary embedding (with QK norms and biases where named), the KV cache, and attention over it.

        A `rope_dim` of 0 turns nothing. Without `causal` a token sees its whole sequence, all of it in the batch.
        """


class Architecture(Protocol):
    """A module with the function `build`."""

    def build(self, b: Builder, config: ModelConfig) -> Any:
        """The activations behind the last norm, of the tokens whose logits are wanted."""


def architecture(name: str, path: str) -> Architecture:
    """The architecture of a file."""
    from llmrun.runner import bert, gemma3, llama, qwen2, qwen3

    known = {"bert": bert, "llama": llama, "qwen2": qwen2, "qwen3": qwen3, "gemma3": gemma3}
    if name not in known:
        raise UnknownArchitecture(f"{path}: unknown architecture {name[:60]!r}; llmrun runs {', '.join(sorted(known))}")
    return known[name]
