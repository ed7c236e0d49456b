"""Memory for the activations of a program, shared by those that are not needed at the same time."""

from collections.abc import Iterable

import numpy as np

_LINE = 64


class Buffer:
    """Memory that operations of a program use, from one phase to another.

    A phase is what runs between two barriers; operations of one phase may run at the same time.
    """

    def __init__(self, n_bytes: int):
        self.n_bytes = n_bytes
        self.first: int | None = None  # phase
        self.last = -1
        self._memory: np.ndarray | None = None

    def used(self, phase: int) -> None:
        """Note that an operation of a phase uses the buffer."""
        self.first = phase if self.first is None else min(self.first, phase)
        self.last = max(self.last, phase)

    def put(self, memory: np.ndarray) -> None:
        """Give the buffer its memory, (n_bytes,) uint8."""
        assert memory.size == self.n_bytes
        self._memory = memory

    def memory(self) -> np.ndarray:
        """The bytes (n_bytes,) uint8."""
        assert self._memory is not None, "the program is not finished"
        return self._memory

    @property
    def address(self) -> int:
        """Of the first byte."""
        return self.memory().ctypes.data


def place(buffers: Iterable[Buffer]) -> None:
    """Give memory to every buffer; those of one size follow each other in the same place where their phases allow.

    Reuse keeps the working set of a layer in the processor's caches, whatever the number of layers.
    """
    free: dict[int, list[tuple[int, np.ndarray]]] = {}  # by size: last phase of the user before, and the memory
    for buffer in sorted(buffers, key=lambda b: (b.first or 0, b.last)):
        places = free.setdefault(buffer.n_bytes, [])
        found = next((i for i, (last, _) in enumerate(places) if last < (buffer.first or 0)), None)
        memory = zeros(buffer.n_bytes) if found is None else places.pop(found)[1]
        buffer.put(memory)
        places.append((buffer.last, memory))


def zeros(n_bytes: int) -> np.ndarray:
    """Zeroed bytes that begin on a cache line."""
    memory = np.zeros(n_bytes + _LINE, np.uint8)
    start = -memory.ctypes.data % _LINE
    return memory[start : start + n_bytes]
