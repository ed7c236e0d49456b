"""What it takes to load a model: seconds until the kernels are ready, compiled or from the cache, and memory.

Each number comes from a process of its own, this file as a program, so that nothing of the benchmark is in it.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

PROMPT = 512  # tokens run after loading, so that the memory of activations and of the context is in use
ROUNDS = 5


@dataclass(frozen=True)
class Loading:
    """Seconds, of which those with kernels in the cache are medians; bytes, None where the system does not say."""

    compile_seconds: float  # of the kernels, into an empty cache
    kernel_seconds: float  # of the kernels, from the cache: imports of the process, and loading
    start_seconds: float  # from the start of the process until the model is loaded
    file_bytes: int
    resident_bytes: int | None
    kv_bytes: int  # of the context, part of the resident bytes

    @property
    def over_file(self) -> float | None:
        """Resident bytes without the context, over those of the file."""
        return None if self.resident_bytes is None else (self.resident_bytes - self.kv_bytes) / self.file_bytes

    def __str__(self) -> str:
        kernels = (
            f"kernels ready: {self.compile_seconds:.1f} s after the first start, which compiles them, "
            f"{self.kernel_seconds:.2f} s after the second; model loaded {self.start_seconds:.2f} s after the second"
        )
        if self.resident_bytes is None:
            return f"{kernels}\nresident memory: this system does not say"
        return (
            f"{kernels}\nresident memory: {self.resident_bytes / 1e6:.0f} MB, of which context "
            f"{self.kv_bytes / 1e6:.0f} MB; the rest is {self.over_file:.2f} of the file"
        )


def measure_loading(model: Path, n_threads: int, isa: str) -> Loading:
    """Load a model into an empty cache of kernels, and some more times with what is then in it."""
    with tempfile.TemporaryDirectory() as cache:
        first, *later = (_run(model, n_threads, isa, cache) for _ in range(1 + ROUNDS))
    medians = {key: float(np.median([run[key] for run in later])) for key in ("kernel_seconds", "start_seconds")}
    return Loading(
        compile_seconds=first["kernel_seconds"],
        **medians,
        file_bytes=model.stat().st_size,
        resident_bytes=later[-1]["resident_bytes"],
        kv_bytes=later[-1]["kv_bytes"],
    )


def _run(model: Path, n_threads: int, isa: str, cache: str) -> dict[str, Any]:
    command = [sys.executable, __file__, str(model), str(n_threads), isa, str(time.time())]
    result = subprocess.run(command, stdout=subprocess.PIPE, env=os.environ | {"LLMRUN_CACHE": cache}, check=True)
    return dict(json.loads(result.stdout))


def _resident_bytes() -> int | None:
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:  # not Linux
        return None
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) << 10


def _load(path: Path, n_threads: int, isa: str, started: float) -> dict[str, Any]:
    """The work of a process that began at `started`, a time of day."""
    from llmrun.cli.model_facts import ModelFacts
    from llmrun.cpu_kernels.library import KernelLibrary
    from llmrun.quant_formats.gguf_file import GGUFFile
    from llmrun.runner import cpu_model  # noqa: F401 - what load_model would import
    from llmrun.runner.kv_cache import BLOCK_TOKENS, blocks_for
    from llmrun.runner.loader import load_model
    from llmrun.runner.speed import SpeedTest

    load, seconds = KernelLibrary.load, []

    def timed_load(*arguments: Any) -> None:
        start = time.perf_counter()
        load(*arguments)
        seconds.append(time.perf_counter() - start)

    KernelLibrary.load = timed_load  # type: ignore[method-assign, assignment]
    with GGUFFile.open(path) as gguf:
        facts = ModelFacts.from_gguf(gguf)
        imported = time.time() - started
        model = load_model(gguf, n_threads, isa=isa)
    loaded = time.time() - started
    SpeedTest(model, 1, PROMPT).prefill(PROMPT)
    return {
        "kernel_seconds": imported + sum(seconds),
        "start_seconds": loaded,
        "resident_bytes": _resident_bytes(),
        "kv_bytes": facts.kv_bytes(blocks_for(PROMPT) * BLOCK_TOKENS),
    }


if __name__ == "__main__":
    print(json.dumps(_load(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], float(sys.argv[4]))))
