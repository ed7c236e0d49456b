"""A model as a flat list of operations: `ProgramBuilder` lowers the steps of an architecture to records.

The builder's methods are the vocabulary in which architectures are written (`norm`, `matmul`, `attention`, ...). They
take and return `Rows`, the activations of the tokens of a batch. The program is built once; what changes from step to
step (the number of tokens, their positions, where their keys and values are) is read from the arrays of a `Step`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmrun.cpu_kernels import op
from llmrun.cpu_kernels.activations import LAYOUTS, Layout
from llmrun.cpu_kernels.buffers import Buffer, place
from llmrun.cpu_kernels.fields import ADD, ATTENTION, EMBED, GATED, GELU, LAYER_NORM, MATMUL, NORM, QUANTISE, ROPE
from llmrun.cpu_kernels.kv_types import KVType
from llmrun.cpu_kernels.library import KernelLibrary
from llmrun.cpu_kernels.matmul_scratch import matmul_scratch_bytes
from llmrun.cpu_kernels.packing import PackedMatrix
from llmrun.cpu_kernels.step import Step, attention_scratch_bytes, partial_bytes

Value = int | Buffer | Callable[[], int]
"""What a field holds: a number, or a buffer or a function whose address is known when the program is finished."""


BALANCED_BYTES = 1 << 20
"""From so much for each thread on, threads take panels of a matrix from each other."""


@dataclass(frozen=True)
class _Operation:
    """One record to be: its kernel, its fields in order, whether the threads meet behind it, and its phase."""

    kernel: str
    values: dict[str, Value]
    barrier: bool
    phase: int


class Rows:
    """Activations: (n_tokens, n) float32, and the quantised forms that products read.

    Rows `of_logits` are those of the tokens whose logits are wanted, others those of all tokens.
    """

    def __init__(self, builder: "ProgramBuilder", n: int, *, of_logits: bool = False):
        self.n, self.of_logits = n, of_logits
        self.stride = 4 * (-(-n // 16) * 16)
        self.floats = Buffer(builder.step.max_tokens * self.stride)
        self._quantised: dict[str, Buffer] = {}
        self._builder = builder
        self._producer: int | None = None  # the operation whose record says where to quantise

    def array(self, n_tokens: int) -> np.ndarray:
        """The first tokens' rows (n_tokens, n) float32, a view; once the program is finished."""
        return self.floats.memory().view(np.float32).reshape(-1, self.stride // 4)[:n_tokens, : self.n]

    def produced_by(self, operation: int) -> "Rows":
        """Remember the operation that can quantise these rows as it writes them."""
        self._producer = operation
        return self

    def as_layout(self, layout: Layout) -> Buffer:
        """The rows in a layout; the operation that makes them is told to write it."""
        if layout.name not in self._quantised:
            assert self._producer is not None, "nothing quantises these rows"
            buffer = Buffer(self._builder.step.max_tokens * layout.column_bytes(self.n))
            self._quantised[layout.name] = buffer
            self._builder.set_field(self._producer, layout.name, buffer)
        return self._quantised[layout.name]


class ProgramBuilder:
    """Appends operations; `kernels` are the names that have to be loaded before `finish`."""

    def __init__(self, weights: Mapping[str, PackedMatrix | np.ndarray], step: Step, n_threads: int, kv: KVType):
        self.weights, self.step, self.n_threads, self.kv = weights, step, n_threads, kv
        self.kernels: dict[str, None] = {}
        self._operations: list[_Operation] = []
        self._phase = 0  # barriers so far
        self._scratch: dict[str, Buffer] = {}
        self._taken: list[np.ndarray] = []
        self._kv: tuple[np.ndarray, np.ndarray] | None = None
        self._is_placed = False

    # -- the vocabulary of architectures ----------------------------------------------------------------------------

    def embed(self, table: str, scale: float = 1.0, of: str = "tokens") -> Rows:
        """Rows of an embedding table for the "tokens", "positions" or "types" of the batch."""
        matrix = self.weights[table]
        assert isinstance(matrix, PackedMatrix)
        out = Rows(self, matrix.n_columns)
        self._add(
            f"embed-{matrix.format}", EMBED, n_tokens=self.step.address("n_tokens"), tokens=self.step.address(of),
            table=matrix.file_address, row_bytes=matrix.row_bytes, n_blocks=matrix.n_blocks, out=out.floats,
            out_stride=out.stride, scale=op.float_word(scale),
        )  # fmt: skip
        return out

    def norm(self, x: Rows, weight: str, eps: float, *, of_logits: bool = False) -> Rows:
        """RMS norm; with `of_logits` only of the tokens whose logits are wanted."""
        out = Rows(self, x.n, of_logits=of_logits)
        return out.produced_by(self._norm(x, weight, eps, out=out, residual=0, of_logits=of_logits))

    def add_norm(self, x: Rows, y: Rows, weight: str, eps: float) -> None:
        """x += RMS norm of y."""
        self._norm(y, weight, eps, out=None, residual=x.floats, of_logits=False)

    def layer_norm(self, x: Rows, name: str, eps: float, *, of_logits: bool = False) -> Rows:
        """Layer norm with `name`'s weight and bias; with `of_logits` only of the tokens whose logits are wanted."""
        out = Rows(self, x.n, of_logits=of_logits)
        return out.produced_by(
            self._add(
                "layernorm", LAYER_NORM, n_tokens=self.step.address("n_logits" if of_logits else "n_tokens"),
                rows=self.step.address("logit_rows") if of_logits else 0, x=x.floats, x_stride=x.stride,
                weight=self._vector(f"{name}.weight"), bias=self._vector(f"{name}.bias"), eps=op.float_word(eps),
                n=x.n, out=out.floats, out_stride=out.stride, q16=0, f32=0,
            )
        )  # fmt: skip

    def add(self, x: Rows, y: Rows) -> None:
        """x += y."""
        self._add(
            "add", ADD, n_tokens=self.step.address("n_tokens"), x=x.floats, x_stride=x.stride, y=y.floats,
            y_stride=y.stride, n=x.n,
        )  # fmt: skip

    def add_bias(self, x: Rows, name: str) -> None:
        """x += a vector."""
        self._add(
            "add", ADD, n_tokens=self.step.address("n_tokens"), x=x.floats, x_stride=x.stride, y=self._vector(name),
            y_stride=0, n=x.n,
        )  # fmt: skip

    def gelu(self, x: Rows) -> Rows:
        """GELU of the rows, in their place."""
        operation = self._add(
            "gelu", GELU, n_tokens=self.step.address("n_tokens"), x=x.floats, x_stride=x.stride, n=x.n, q16=0, f32=0
        )
        return x.produced_by(operation)

    def matmul(self, x: Rows, *names: str) -> tuple[Rows, ...]:
        """The product of the rows with each matrix."""
        outs = tuple(Rows(self, self._matrix(name).n_rows) for name in names)
        for i, (name, out) in enumerate(zip(names, outs, strict=True)):
            self._matmul(x, name, out, accumulate=False, barrier=i == len(names) - 1)
        return outs

    def add_matmul(self, x: Rows, y: Rows, name: str) -> None:
        """x += the product of the rows y with a matrix."""
        self._matmul(y, name, x, accumulate=True, barrier=True)

    def gated(self, x: Rows, gate: str, up: str, activation: str) -> Rows:
        """activation(gate x) * up x, with "silu" or "gelu"."""
        a, b = (Rows(self, self._matrix(name).n_rows) for name in (gate, up))
        self._matmul(x, gate, a, accumulate=False, barrier=False)
        fixed = not (self._is_balanced(gate) or self._is_balanced(up))  # then a thread goes on with rows of its own
        self._matmul(x, up, b, accumulate=False, barrier=not fixed)
        out = Rows(self, a.n)
        out.floats = a.floats
        return out.produced_by(
            self._add(
                f"gated-{activation}", GATED, n_tokens=self.step.address("n_tokens"), gate=a.floats,
                gate_stride=a.stride, up=b.floats, up_stride=b.stride, out=out.floats, out_stride=out.stride, n=a.n,
                q16=0, f32=0,
            )
        )  # fmt: skip

    def attention(
        self, q: Rows, k: Rows, v: Rows, *, layer: int, head_dim: int, n_heads: int, n_kv_heads: int, scale: float,
        angles: str, rope_dim: int, paired: bool, window: int = 0, eps: float = 0.0, q_bias: str = "", k_bias: str = "",
        v_bias: str = "", q_norm: str = "", k_norm: str = "", causal: bool = True,
    ) -> Rows:  # fmt: skip
        """Rotary embedding (with QK norms and biases where named), the KV cache, and attention over it.

        A `rope_dim` of 0 turns nothing. Without `causal` a token sees its whole sequence, all of it in the batch.
        """
        assert causal or not window, "a window that reaches both ways"
        step, out = self.step, Rows(self, n_heads * head_dim)
        where: dict[str, Any] = {
            "positions": step.address("positions"), "sequences": step.address("sequences"),
            "block_tables": step.address("block_tables"), "residual_tables": step.address("residual_tables"),
            "table_stride": step.table_stride,
            "k_cache": lambda: self._kv_address(0, layer), "v_cache": lambda: self._kv_address(1, layer),
            "n_kv_heads": n_kv_heads,
            "q": q.floats, "q_stride": q.stride,
        }  # fmt: skip
        self._add(
            f"rope{self.kv.suffix}", ROPE, n_tokens=step.address("n_tokens"), k=k.floats, k_stride=k.stride, v=v.floats,
            v_stride=v.stride, n_heads=n_heads, head_dim=head_dim, q_bias=self._vector(q_bias),
            k_bias=self._vector(k_bias), v_bias=self._vector(v_bias), q_norm=self._vector(q_norm),
            k_norm=self._vector(k_norm), eps=op.float_word(eps), angles=step.address(angles) if rope_dim else 0,
            rope_dim=rope_dim, paired=int(paired), scale=op.float_word(scale), **where,
        )  # fmt: skip
        scratch = attention_scratch_bytes(head_dim)
        fields: dict[str, Any] = {
            "tiles": step.address("tiles"), "n_tiles": step.address("n_tiles"), "spread": step.address("spread"),
            "out": out.floats, "out_stride": out.stride, "group": n_heads // n_kv_heads, "window": window,
            "scratch": self._shared("scratch", scratch * self.n_threads), "scratch_stride": scratch,
            "partials": self._shared("partials", partial_bytes(head_dim, step.max_blocks, self.n_threads)),
            "max_blocks": step.max_blocks, "lengths": 0 if causal else step.address("lengths"), **where,
        }  # fmt: skip
        self._add(f"attention-{head_dim}{self.kv.suffix}", ATTENTION, **fields)
        self._add(f"merge-{head_dim}{self.kv.suffix}", ATTENTION, **fields)
        return out.produced_by(
            self._add(
                "quantise", QUANTISE, n_tokens=step.address("n_tokens"), x=out.floats, x_stride=out.stride, n=out.n,
                q16=0, f32=0,
            )
        )  # fmt: skip

    @property
    def n_operations(self) -> int:
        """Number of operations so far."""
        return len(self._operations)

    # -- records ------------------------------------------------------------------------------------------------------

    def finish(self, library: KernelLibrary, kv: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """The program (n_ops, 32) int64, once its kernels are loaded.

        `kv` holds the keys and values, each (n_layers, n_blocks, block bytes) uint8. May be called again with others:
        such programs share the memory for activations, and so do not run at the same time.
        """
        self._kv = kv
        if not self._is_placed:
            self._place_buffers()
        program = np.zeros((len(self._operations), op.RECORD_WORDS), np.int64)
        for record, operation in zip(program, self._operations, strict=True):
            record[op.KERNEL], record[op.BARRIER] = library.address(operation.kernel), operation.barrier
            for i, value in enumerate(operation.values.values()):
                record[op.FIRST_FIELD + i] = self._word(value)
        self._look_ahead(program)
        return program

    def _place_buffers(self) -> None:
        values = (value for operation in self._operations for value in operation.values.values())
        place({value for value in values if isinstance(value, Buffer)})
        self._is_placed = True

    def _look_ahead(self, program: np.ndarray) -> None:
        """Say in each record where the weights of the next product are."""
        ahead = stride = 0
        for record, operation in zip(program[::-1], self._operations[::-1], strict=True):
            record[op.AHEAD], record[op.AHEAD_STRIDE] = ahead, stride
            if operation.kernel.startswith("matmul"):
                values = operation.values
                ahead = self._word(values["weights"])
                stride = self._word(values["n_panels"]) // self.n_threads * self._word(values["panel_bytes"])

    @staticmethod
    def _word(value: "Value") -> int:
        if isinstance(value, Buffer):
            return value.address
        return value() if callable(value) else value

    def set_field(self, operation: int, name: str, buffer: Buffer) -> None:
        """Change a field of an operation that was added before."""
        added = self._operations[operation]
        added.values[name] = buffer
        buffer.used(added.phase)

    def _kv_address(self, which: int, layer: int) -> int:
        assert self._kv is not None
        return self._kv[which][layer].ctypes.data

    def _shared(self, name: str, n_bytes: int) -> Buffer:
        """Scratch memory that operations of one name use one after the other."""
        return self._scratch.setdefault(f"{name}-{n_bytes}", Buffer(n_bytes))

    def _add(self, kernel: str, fields: Any, *, barrier: bool = True, **values: Any) -> int:
        assert set(values) == set(fields._fields), set(values) ^ set(fields._fields)
        self.kernels[kernel] = None
        self._operations.append(
            _Operation(kernel, {name: values[name] for name in fields._fields}, barrier, self._phase)
        )
        for value in values.values():
            if isinstance(value, Buffer):
                value.used(self._phase)
        self._phase += barrier
        return len(self._operations) - 1

    def _norm(
        self, x: Rows, weight: str, eps: float, *, out: Rows | None, residual: Buffer | int, of_logits: bool
    ) -> int:
        return self._add(
            "norm", NORM, n_tokens=self.step.address("n_logits" if of_logits else "n_tokens"),
            rows=self.step.address("logit_rows") if of_logits else 0, x=x.floats, x_stride=x.stride,
            weight=self._vector(weight), eps=op.float_word(eps), n=x.n, residual=residual,
            out=out.floats if out else 0, out_stride=out.stride if out else x.stride, q16=0, f32=0,
        )  # fmt: skip

    def _matmul(self, x: Rows, name: str, out: Rows, *, accumulate: bool, barrier: bool) -> None:
        matrix = self._matrix(name)
        assert matrix.n_columns == x.n, (name, matrix.n_columns, x.n)
        n_columns = self.step.address("n_logits" if x.of_logits else "n_tokens")
        layout, scratch = LAYOUTS[matrix.layout], matmul_scratch_bytes(self.step.max_tokens)
        self._add(
            f"matmul-{matrix.format}", MATMUL, n_columns=n_columns, weights=matrix.address, n_panels=matrix.n_panels,
            panel_bytes=matrix.panel.n_bytes, words=matrix.panel.words, n_blocks=matrix.n_blocks,
            x=x.as_layout(layout), out=out.floats, out_stride=out.stride, accumulate=int(accumulate),
            scratch=self._shared("unpacked", scratch * self.n_threads), scratch_stride=scratch,
            taken=self._counters() if self._is_balanced(name) else 0, barrier=barrier,
        )  # fmt: skip

    def _is_balanced(self, name: str) -> bool:
        """Whether threads take panels from each other, which pays for matrices that are read out of memory."""
        matrix = self._matrix(name)
        return self.n_threads > 1 and matrix.n_panels * matrix.panel.n_bytes >= BALANCED_BYTES * self.n_threads

    def _counters(self) -> int:
        """The address of a word that is 0 for each thread, on cache lines of their own."""
        self._taken.append(np.zeros(8 * (self.n_threads + 1), np.int64))
        return -(-self._taken[-1].ctypes.data // 64) * 64

    def _matrix(self, name: str) -> PackedMatrix:
        matrix = self.weights[name]
        assert isinstance(matrix, PackedMatrix), name
        return matrix

    def _vector(self, name: str) -> int:
        """Address of a float32 vector of the model; 0 for no name."""
        if not name:
            return 0
        vector = self.weights[name]
        assert isinstance(vector, np.ndarray)
        assert vector.dtype == np.float32
        return vector.ctypes.data
