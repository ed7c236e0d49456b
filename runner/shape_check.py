"""A dry run of an architecture over the tensors of a file: which it uses, and whether their shapes fit together."""

from llmrun.quant_formats.errors import CorruptFile, MissingTensor
from llmrun.quant_formats.gguf_file import GGUFFile
from llmrun.quant_formats.tensor import Tensor
from llmrun.runner.architecture import architecture
from llmrun.runner.config import ModelConfig

EMBEDDING, HEAD = "token_embd.weight", "output.weight"
TABLES = frozenset({EMBEDDING, "position_embd.weight", "token_types.weight"})
"""Matrices of which only single rows are read."""


def used_tensors(gguf: GGUFFile, config: ModelConfig) -> dict[str, Tensor]:
    """The tensors that the model of a file uses, under the names its architecture gives them.

    Raises MissingTensor or CorruptFile, naming the tensor, where one is missing or does not fit.
    """
    check = _ShapeCheck(gguf, config)
    hidden = architecture(gguf.architecture, str(gguf.path)).build(check, config)
    if config.is_causal:
        (n_vocab,) = check.matmul(hidden, HEAD)
        check.same(HEAD, n_vocab, config.n_vocab)
    return check.used


class _ShapeCheck:
    """Stands in for the builder: activations are just their widths."""

    def __init__(self, gguf: GGUFFile, config: ModelConfig):
        self.gguf, self.config, self.used = gguf, config, dict[str, Tensor]()

    def embed(self, table: str, scale: float = 1.0, of: str = "tokens") -> int:
        del scale
        n_rows, width = self._tensor(table, 2).shape
        least = {"tokens": self.config.n_vocab, "positions": self.config.n_ctx_train, "types": 1}[of]
        if n_rows < least:
            raise CorruptFile(
                f"{self.gguf.path}: the tensor {table} has {n_rows} rows and {least} are needed; convert the file again"
            )
        return width

    def norm(self, x: int, weight: str, eps: float, *, of_logits: bool = False) -> int:
        del eps, of_logits
        self._vector(weight, x)
        return x

    def layer_norm(self, x: int, name: str, eps: float, *, of_logits: bool = False) -> int:
        del eps, of_logits
        self._vector(f"{name}.weight", x)
        self._vector(f"{name}.bias", x)
        return x

    def add(self, x: int, y: int) -> None:
        self.same(EMBEDDING, y, x)

    def add_bias(self, x: int, name: str) -> None:
        self._vector(name, x)

    def gelu(self, x: int) -> int:
        return x

    def add_norm(self, x: int, y: int, weight: str, eps: float) -> None:
        del eps
        self.same(weight, y, x)
        self._vector(weight, x)

    def matmul(self, x: int, *names: str) -> tuple[int, ...]:
        for name in names:
            self.same(name, self._tensor(name, 2).shape[1], x)
        return tuple(self.used[name].shape[0] for name in names)

    def add_matmul(self, x: int, y: int, name: str) -> None:
        (rows,) = self.matmul(y, name)
        self.same(name, rows, x)

    def gated(self, x: int, gate: str, up: str, activation: str) -> int:
        del activation
        gate_rows, up_rows = self.matmul(x, gate, up)
        self.same(gate, gate_rows, up_rows)
        return up_rows

    def attention(
        self, q: int, k: int, v: int, *, layer: int, head_dim: int, n_heads: int, n_kv_heads: int, scale: float,
        angles: str, rope_dim: int, paired: bool, window: int = 0, eps: float = 0.0, q_bias: str = "",
        k_bias: str = "", v_bias: str = "", q_norm: str = "", k_norm: str = "", causal: bool = True,
    ) -> int:  # fmt: skip
        del scale, angles, paired, window, eps, causal
        for name, width, heads in (("attn_q", q, n_heads), ("attn_k", k, n_kv_heads), ("attn_v", v, n_kv_heads)):
            self.same(f"blk.{layer}.{name}.weight", width, heads * head_dim)
        for name, width in ((q_bias, q), (k_bias, k), (v_bias, v), (q_norm, head_dim), (k_norm, head_dim)):
            if name:
                self._vector(name, width)
        if rope_dim and "rope_freqs.weight" in self.gguf.tensors:
            self._vector("rope_freqs.weight", rope_dim // 2)
        return q

    def same(self, name: str, found: int, wanted: int) -> None:
        """Check one length."""
        if found != wanted:
            raise CorruptFile(
                f"{self.gguf.path}: the tensor {name} has a length of {found} where {wanted} fits; "
                "convert the file again"
            )

    def _vector(self, name: str, length: int) -> None:
        self.same(name, self._tensor(name, 1).shape[0], length)

    def _tensor(self, name: str, dimensions: int) -> Tensor:
        stored = EMBEDDING if name == HEAD and HEAD not in self.gguf.tensors else name  # the head may be tied
        if stored not in self.gguf.tensors:
            raise MissingTensor(f"{self.gguf.path}: the tensor {name} is missing; download or convert the file again")
        tensor = self.gguf.tensors[stored]
        if len(tensor.shape) != dimensions:
            raise CorruptFile(
                f"{self.gguf.path}: the tensor {name} has {len(tensor.shape)} dimensions, not {dimensions}"
            )
        self.used[name] = tensor
        return tensor
