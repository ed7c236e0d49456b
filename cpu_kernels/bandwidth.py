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


class MemoryReader:
    """A buffer, and a team of threads that reads it."""

    def __init__(self, n_threads: int, n_bytes: int) -> None:
        """Reserve the buffer; `n_bytes` is a multiple of 256."""
        assert n_bytes > 0
        assert n_bytes % 256 == 0, "the kernel reads 256 bytes at a time"
        library = KernelLibrary(choose())
        library.load(["read"])
        self._n_bytes = n_bytes
        self._source = np.ones(n_bytes + _CACHE_LINE, np.uint8)  # written, so that every page is one of its own
        self._sums = np.zeros(_CACHE_LINE * n_threads, np.uint8)
        start = -(-self._source.ctypes.data // _CACHE_LINE) * _CACHE_LINE
        self._program = np.zeros((1, op.RECORD_WORDS), np.int64)
        self._program[0, op.KERNEL], self._program[0, op.BARRIER] = library.address("read"), 1
        fields = READ._replace(source=start, n_bytes=n_bytes, out=self._sums.ctypes.data)
        self._program[0, op.FIRST_FIELD : op.FIRST_FIELD + len(fields)] = fields
        self._team = Team(library, n_threads)

    def speed(self) -> float:
        """Read the buffer once; bytes a second."""
        start = time.perf_counter()
        self._team.run(self._program)
        return self._n_bytes / (time.perf_counter() - start)

    def close(self) -> None:
        """End the threads."""
        self._team.close()


def read_bandwidth(n_threads: int, n_bytes: int = N_BYTES) -> float:
    """Bytes a second that `n_threads` threads read from `n_bytes` of memory, the best of five rounds.

    A buffer that fits into a cache gives the bandwidth of that cache, as weights that fit into it have it.
    """
    reader = MemoryReader(n_threads, n_bytes)
    try:
        return max(reader.speed() for _ in range(N_ROUNDS))
    finally:
        reader.close()
