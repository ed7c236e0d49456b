"""From a model file to a model that is ready to run."""

import os
from typing import TYPE_CHECKING

from llmrun.quant_formats.errors import UsageError
from llmrun.quant_formats.gguf_file import GGUFFile
from llmrun.runner.model import Model

if TYPE_CHECKING:
    from llmrun.cpu_kernels.library import Progress

MAX_THREADS = 1024


def load_model(
    gguf: GGUFFile,
    n_threads: int | None = None,
    progress: "Progress | None" = None,
    isa: str | None = None,
    kv_type: str | None = None,
) -> Model:
    """Load the weights of a file onto the CPU.

    `n_threads` defaults to the processors that this process may use; `isa` forces an instruction set; `kv_type`
    is how keys and values are stored, a name of KV_TYPES ("f16" is the default).

    Raises UsageError for a number of threads or a type that makes no sense.
    """
    if n_threads is not None and not 1 <= n_threads <= MAX_THREADS:
        raise UsageError(f"{n_threads} threads cannot be used; ask for 1 to {MAX_THREADS}")
    from llmrun.runner.cpu_model import CPUModel

    return CPUModel(gguf, n_threads or default_threads(), progress, isa, kv_type)


def default_threads() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
