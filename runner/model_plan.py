"""How much context a server gives a model, worked out from its file before anything is loaded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from llmrun.quant_formats.errors import OutOfMemory
from llmrun.runner.engine import DEFAULT_CONTEXT, context_size, kv_bytes
from llmrun.runner.memory import WORK_BYTES

DEFAULT_PARALLEL = 4  # full contexts; short sequences share them, so many more clients fit
KV_SHARE = 0.5  # of the memory that the weights leave; what is computed once is kept, so all of it is used in the end


@dataclass(frozen=True)
class ModelPlan:
    """What a model takes: `weight_bytes`, and `kv_bytes` for `n_parallel` contexts of `n_ctx` tokens."""

    weight_bytes: int
    kv_bytes: int
    n_ctx: int
    n_parallel: int

    @property
    def n_bytes(self) -> int:
        """All of it, work space included."""
        return self.weight_bytes + self.kv_bytes + WORK_BYTES

    @classmethod
    def of(
        cls,
        path: Path,
        available: int,
        n_ctx: int | None = None,
        n_parallel: int | None = None,
        kv_type: str | None = None,
    ) -> Self:
        """Plan for `available` bytes of memory.

        What is given is kept. Else n_ctx is what the model was trained on, as far as half of what the weights leave has
        room for it, but not below what `Engine.load` takes; and n_parallel is as many of these as fit in there, up to
        DEFAULT_PARALLEL.

        Raises OutOfMemory if that is more than there is, and what `Engine.load` raises for a file or an option.
        """
        from llmrun.quant_formats.gguf_file import GGUFFile
        from llmrun.runner.architecture import architecture
        from llmrun.runner.config import ModelConfig
        from llmrun.runner.kv_type import kv_type_named

        with GGUFFile.open(path) as gguf:
            architecture(gguf.architecture, str(path))
            config = ModelConfig.from_gguf(gguf)
            weight_bytes = sum(tensor.n_bytes for tensor in gguf.tensors.values())
        kv = kv_type_named(kv_type, config)
        per_token = config.kv_bytes_per_token(kv)
        n_tokens = max(0, int((available - weight_bytes - WORK_BYTES) * KV_SHARE)) // per_token
        if n_ctx is None:
            n_ctx = min(config.n_ctx_train, max(n_tokens // (n_parallel or 1), DEFAULT_CONTEXT))
        n_ctx = context_size(n_ctx, config.n_ctx_train)
        if n_parallel is None:
            n_parallel = min(max(1, n_tokens // n_ctx), DEFAULT_PARALLEL)
        plan = cls(weight_bytes, kv_bytes(config, kv, n_ctx, n_parallel), n_ctx, n_parallel)
        if plan.n_bytes > available:
            raise OutOfMemory(
                f"the model needs {plan.n_bytes / 2**20:.0f} MiB of memory (weights {weight_bytes / 2**20:.0f} MiB, "
                f"{n_parallel} x {n_ctx} tokens of context {plan.kv_bytes / 2**20:.0f} MiB) and "
                f"{available / 2**20:.0f} MiB are free; ask for less with --ctx or --kv-type, or close other programs"
            )
        return plan
