"""How fast the threads read memory: the roof that decoding is measured against."""

import time
from collections.abc import Sequence

import numpy as np

from llmrun.cpu_kernels import op
from llmrun.cpu_kernels.fields import READ
from llmrun.cpu_kernels.team import Team

_STEP = 256  # bytes that the kernel reads at a time


class MemoryReader:
    """Reads arrays where they are, one after the other, with plain loads; each thread has its part of each array."""

    def __init__(self, team: Team, arrays: Sequence[np.ndarray]) -> None:
        """Take arrays of any type; what does not fill the last 256 bytes of one is left out."""
        team.library.load(["read"])
        self._team, self._arrays = team, arrays
        self._sums = np.zeros(64 * team.n_threads, np.uint8)
        self._program = np.zeros((len(arrays), op.RECORD_WORDS), np.int64)
        self._program[:, op.KERNEL] = team.library.address("read")
        self._n_bytes = 0
        for record, array in zip(self._program, arrays, strict=True):
            n_bytes = array.nbytes // _STEP * _STEP
            fields = READ._replace(source=array.ctypes.data, n_bytes=n_bytes, out=self._sums.ctypes.data)
            record[op.FIRST_FIELD : op.FIRST_FIELD + len(fields)] = fields
            self._n_bytes += n_bytes

    def speed(self) -> float:
        """Read the arrays once; bytes a second."""
        start = time.perf_counter()
        self._team.run(self._program)
        return self._n_bytes / (time.perf_counter() - start)
