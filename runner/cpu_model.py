"""A model on the CPU: packed weights, a program, and the team of threads that runs it."""

import math

import numpy as np

from llmrun.cpu_kernels.bandwidth import MemoryReader
from llmrun.cpu_kernels.buffers import zeros
from llmrun.cpu_kernels.isa import choose
from llmrun.cpu_kernels.large_pages import LargePages
from llmrun.cpu_kernels.library import KernelLibrary, Progress
from llmrun.cpu_kernels.packing import PackedMatrix, pack, unpacked
from llmrun.cpu_kernels.program import ProgramBuilder, Rows
from llmrun.cpu_kernels.step import BLOCK_TOKENS, Step
from llmrun.cpu_kernels.team import Team
from llmrun.quant_formats.gguf_file import GGUFFile
from llmrun.quant_formats.tensor import Tensor
from llmrun.runner.architecture import architecture
from llmrun.runner.batch import Batch
from llmrun.runner.config import ModelConfig
from llmrun.runner.fingerprint import fingerprint
from llmrun.runner.kv_type import kv_type_named
from llmrun.runner.model import BlockContents
from llmrun.runner.shape_check import HEAD, TABLES, used_tensors

MAX_TOKENS = 512
"""Most tokens in one forward pass."""


class CPUModel:
    """Runs batches on CPU threads; see `runner.model.Model`."""

    def __init__(
        self,
        gguf: GGUFFile,
        n_threads: int,
        progress: Progress | None = None,
        isa: str | None = None,
        kv_type: str | None = None,
    ):
        self.config = ModelConfig.from_gguf(gguf)
        self.kv_type = kv_type_named(kv_type, self.config)
        tensors = used_tensors(gguf, self.config)
        self._tensors = gguf.tensors  # the embedding table is read in place
        self._isa = choose(isa)
        self._library = KernelLibrary(self._isa)
        self._team = Team(self._library, n_threads, progress)
        self._step = _new_step(self.config, gguf, n_threads)
        self._library.load({f"pack-{t.format.name}" for t in tensors.values() if len(t.shape) > 1}, progress)
        weights = _load_weights(self._team, tensors, progress)
        self._panels = [w.panels for w in weights.values() if isinstance(w, PackedMatrix) and w.panels.size]
        self._builder = ProgramBuilder(weights, self._step, n_threads, self.kv_type)
        build = architecture(gguf.architecture, str(gguf.path)).build
        self._hidden: Rows = build(self._builder, self.config)
        self._n_hidden_operations = self._builder.n_operations
        if self.config.is_causal:
            (self._logits,) = self._builder.matmul(self._hidden, HEAD)
        self._library.load(self._builder.kernels, progress)
        self._kv: tuple[np.ndarray, np.ndarray] | None = None
        self._program: np.ndarray | None = None
        self._hidden_kv: tuple[np.ndarray, np.ndarray] | None = None
        self._hidden_program: np.ndarray | None = None
        self.weight_bytes = sum(t.n_bytes for name, t in tensors.items() if name not in TABLES)
        """Bytes of weights that a token reads."""
        self._kv_layer_bytes = self.config.n_kv_heads * self.kv_type.head_bytes(self.config.head_dim)
        self.kv_block_bytes = 2 * self.config.n_layers * self._kv_layer_bytes
        self.residual_blocks = self.kv_type.residual_blocks

    def allocate_kv(self, n_blocks: int) -> None:
        """Reserve the KV cache; its memory is taken from the system as it is first written."""
        if not self.config.is_causal:
            return  # an encoder keeps nothing
        self._kv = self._new_kv(n_blocks)
        self._program = self._builder.finish(self._library, self._kv)

    def forward(self, batch: Batch) -> np.ndarray:
        """Logits (n_logit_rows, n_vocab) float32, valid until the next call."""
        assert self._program is not None, "allocate_kv comes first"
        self._fill_step(batch)
        self._team.run(self._program)
        return self._logits.array(len(batch.logit_rows))

    def read_speed(self) -> float:
        """Read the weights of a token where they are and do nothing else; bytes a second."""
        return MemoryReader(self._team, self._panels).speed()

    def allocate_hidden(self, n_blocks: int) -> None:
        """Reserve blocks for `hidden`; its program is that of `forward` without the last product."""
        self._hidden_kv = self._new_kv(n_blocks)
        self._hidden_program = self._builder.finish(self._library, self._hidden_kv)[: self._n_hidden_operations]

    def hidden(self, batch: Batch) -> np.ndarray:
        """Hidden states (n_logit_rows, n_embd) float32, valid until the next call."""
        assert self._hidden_program is not None, "allocate_hidden comes first"
        self._fill_step(batch)
        self._team.run(self._hidden_program)
        return self._hidden.array(len(batch.logit_rows))

    def _fill_step(self, batch: Batch) -> None:
        self._step.fill(
            *(batch.tokens, batch.positions, batch.sequence, batch.block_tables, batch.logit_rows),
            residual_tables=batch.residual_tables,
        )

    def read_kv(self, block: int, out: np.ndarray) -> None:
        """Copy a block to `out` (kv_block_bytes,) uint8: the keys of each layer, then the values of each."""
        for part, memory in zip(self._by_layer(out), self._kv_memory(), strict=True):
            part[:] = memory[:, block]

    def write_kv(self, block: int, data: BlockContents) -> None:
        """Fill a block with what `read_kv` gave."""
        for part, memory in zip(self._by_layer(np.frombuffer(data, np.uint8)), self._kv_memory(), strict=True):
            memory[:, block] = part

    def copy_kv(self, source: int, target: int) -> None:
        """Copy the contents of a block to another."""
        for memory in self._kv_memory():
            memory[:, target] = memory[:, source]

    def fingerprint(self) -> str:
        """All that keys and values depend on besides the ids."""
        return fingerprint(self.config, self._tensors, self.kv_type, self._isa)

    def _new_kv(self, n_blocks: int) -> tuple[np.ndarray, np.ndarray]:
        shape = self.config.n_layers, n_blocks, self._kv_layer_bytes
        return zeros(math.prod(shape)).reshape(shape), zeros(math.prod(shape)).reshape(shape)

    def _by_layer(self, block: np.ndarray) -> np.ndarray:
        assert block.size == self.kv_block_bytes, (block.size, self.kv_block_bytes)
        return block.reshape(2, self.config.n_layers, self._kv_layer_bytes)

    def _kv_memory(self) -> tuple[np.ndarray, np.ndarray]:
        assert self._kv is not None, "allocate_kv comes first"
        return self._kv

    def close(self) -> None:
        """End the threads and give the memory back."""
        self._team.close()
        self._program = self._kv = self._hidden_program = self._hidden_kv = None


def _new_step(config: ModelConfig, gguf: GGUFFile, n_threads: int) -> Step:
    exponents = np.arange(0, config.rope_dim, 2) / config.rope_dim
    rates = config.rope_theta**-exponents / config.rope_factor
    if "rope_freqs.weight" in gguf.tensors:  # Llama 3.1 and later: a factor for each frequency
        freqs = gguf.tensors["rope_freqs.weight"]
        factors = freqs.format.dequantize(freqs.data)
        rates = rates / factors.astype(np.float64)
    angles = {"rope": rates}
    if config.window:
        angles["rope_window"] = config.rope_theta_window**-exponents
    max_blocks = -(-config.n_ctx_train // BLOCK_TOKENS)
    group = config.n_heads // config.n_kv_heads
    return Step(MAX_TOKENS, max_blocks, config.n_kv_heads, group, n_threads, angles)


def _load_weights(
    team: Team, tensors: dict[str, Tensor], progress: Progress | None
) -> dict[str, PackedMatrix | np.ndarray]:
    weights: dict[str, PackedMatrix | np.ndarray] = {}
    total, done, memory = sum(tensor.n_bytes for tensor in tensors.values()), 0, LargePages()
    for name, tensor in tensors.items():
        if len(tensor.shape) == 1:
            weights[name] = tensor.format.dequantize(tensor.data)
        else:
            weights[name] = unpacked(tensor) if name in TABLES else pack(team, tensor, memory)
        done += tensor.n_bytes
        if progress:
            progress("loading weights", done, total)
    return weights
