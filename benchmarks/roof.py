"""The roof as a contestant: a runner that would do nothing but read what a token has to read."""

from collections.abc import Callable
from statistics import median

from case import Case

from llmrun.cpu_kernels.bandwidth import MemoryReader

MAX_BYTES = 1 << 30  # more than any cache; a bigger buffer reads no slower
SECONDS = 1.0  # of reading, for each measurement


class Roof:
    """Reads a buffer as big as the weights, at most MAX_BYTES, with the threads that the others have.

    A model that fits into a cache is so held against that cache. It takes its turn in every round, because the memory
    of a machine that is shared with others is fast at one moment and slow at the next.
    """

    name = "roof"
    about = ""

    def __init__(self, n_threads: int, bytes_of_token: Callable[[Case], int | None]) -> None:
        self._n_threads, self._bytes_of_token = n_threads, bytes_of_token

    def can(self, case: Case) -> bool:
        """Those where every token is read for alone."""
        return self._bytes_of_token(case) is not None

    def prepare(self, case: Case) -> None:
        """Reserve the buffer."""
        n_bytes = self._bytes_of_token(case)
        assert n_bytes is not None
        self._n_bytes = n_bytes
        self._reader = MemoryReader(self._n_threads, min(n_bytes, MAX_BYTES) // 256 * 256)
        self.speed(case)

    def speed(self, case: Case) -> float:
        """Tokens a second."""
        del case
        speeds = [self._reader.speed()]
        while len(speeds) * min(self._n_bytes, MAX_BYTES) < SECONDS * speeds[0]:
            speeds.append(self._reader.speed())
        return median(speeds) / self._n_bytes
