"""How fast this machine reads memory: the roof that decoding is measured against."""

import time

import numpy as np

from llmrun.cpu_kernels import op
from llmrun.cpu_kernels.fields import READ
from llmrun.cpu_kernels.isa import choose
from llmrun.cpu_kernels.library import KernelLibrary
from llmrun.cpu_kernels.team import Team

N_BYTES = 1 << 29  # more than the cache of most processors
N_ROUNDS = 5
_CACHE_LINE = 64


def read_bandwidth(n_threads: int, n_bytes: int = N_BYTES) -> float:
    """Bytes a second that `n_threads` threads read from `n_bytes` of memory, the best of five rounds.

    A buffer that fits into a cache gives the bandwidth of that cache, as weights that fit into it have it.
    """
    assert n_bytes > 0
    assert n_bytes % 256 == 0, "the kernel reads 256 bytes at a time"
    library = KernelLibrary(choose())
    library.load(["read"])
    source = np.ones(n_bytes + _CACHE_LINE, np.uint8)  # written, so that every page is one of its own
    sums = np.zeros(_CACHE_LINE * n_threads, np.uint8)
    program = _program(library.address("read"), -(-source.ctypes.data // _CACHE_LINE) * _CACHE_LINE, n_bytes, sums)
    team = Team(library, n_threads)
    try:
        return n_bytes / min(_seconds(team, program) for _ in range(N_ROUNDS))
    finally:
        team.close()


def _program(kernel: int, source: int, n_bytes: int, sums: np.ndarray) -> np.ndarray:
    program = np.zeros((1, op.RECORD_WORDS), np.int64)
    program[0, op.KERNEL], program[0, op.BARRIER] = kernel, 1
    fields = READ._replace(source=source, n_bytes=n_bytes, out=sums.ctypes.data)
    program[0, op.FIRST_FIELD : op.FIRST_FIELD + len(fields)] = fields
    return program


def _seconds(team: Team, program: np.ndarray) -> float:
    start = time.perf_counter()
    team.run(program)
    return time.perf_counter() - start
