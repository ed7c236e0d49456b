"""Memory in pages of 2 MiB: where pages are small, a processor spends a part of its reading on finding them."""

import contextlib
import mmap

import numpy as np

PAGE_BYTES = 2 << 20
RESERVED_BYTES = 256 << 20
"""Address space that is asked for at a time; it takes no memory before it is written to."""


class LargePages:
    """Gives out memory piece after piece, so that pieces share pages; it is freed when all of them are unused."""

    def __init__(self) -> None:
        self._rest = np.empty(0, np.uint8)

    def take(self, n_bytes: int) -> np.ndarray:
        """Memory (n_bytes,) uint8 that begins on a cache line; what is in it is unknown."""
        n_whole_lines = -(-n_bytes // 64) * 64
        if n_whole_lines > len(self._rest):
            self._rest = _reserve(max(n_whole_lines, RESERVED_BYTES))
        piece, self._rest = self._rest[:n_bytes], self._rest[n_whole_lines:]
        return piece


def _reserve(n_bytes: int) -> np.ndarray:
    """At least so many bytes, which begin on a large page; of small pages where the system has no others."""
    n_bytes += PAGE_BYTES
    if hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            mapped = mmap.mmap(-1, n_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise MemoryError from error
        with contextlib.suppress(OSError):  # a Linux that was built without large pages
            mapped.madvise(mmap.MADV_HUGEPAGE)
        memory = np.frombuffer(mapped, np.uint8)
    else:
        memory = np.empty(n_bytes, np.uint8)
    return memory[-memory.ctypes.data % PAGE_BYTES :]
