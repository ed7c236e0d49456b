"""Runs single CPU kernels over numpy arrays, on any instruction set that this processor has."""

import functools
from collections.abc import Iterable

import numpy as np
import pytest

from llmrun.cpu_kernels import op
from llmrun.cpu_kernels.isa import choose, supported
from llmrun.cpu_kernels.library import KernelLibrary
from llmrun.cpu_kernels.team import Team
from llmrun.quant_formats.formats import FORMATS

FORMAT_NAMES = [format.name for format in FORMATS.values()]
HEAD_DIMS = (64, 80, 96, 128, 256)
_TOGETHER = [
    [f"matmul-{name}" for name in FORMAT_NAMES],
    [f"pack-{name}" for name in FORMAT_NAMES],
    [f"embed-{name}" for name in FORMAT_NAMES],
    ["norm", "gated-silu", "gated-gelu", "rope", "rope-q8_0", "rope-q4_0"],
    ["layernorm", "add", "gelu"],
]
"""Kernels that tests want together are compiled together, which keeps all cores busy."""


def skip_without(isa: str) -> None:
    """Skip the test where the processor lacks an instruction set."""
    if isa not in supported():
        pytest.skip(f"this processor has no {isa}")


def vector_isas() -> list[str]:
    """The instruction sets of this processor that promise the same bits: all that fuse multiply and add."""
    return [isa for isa in supported() if isa != "portable"]


class Kernels:
    """The kernels of one instruction set, run by a team of threads."""

    def __init__(self, isa: str, n_threads: int):
        self.library = _library(isa)
        self.isa, self.n_threads = self.library.isa, n_threads
        self._team = Team(self.library, n_threads)

    def load(self, names: Iterable[str]) -> None:
        """Compile and load kernels; `run` does it for those that are missing."""
        self.library.load(names)

    def run(self, kernel: str, fields: tuple, **values: float | np.ndarray) -> None:
        """Run one operation; an array stands for its address, a float for its bits."""
        self.program(((kernel, fields, values),))

    def program(self, operations: Iterable[tuple[str, tuple, dict[str, float | np.ndarray]]]) -> None:
        """Run operations one after the other, with a barrier behind each."""
        records = []
        for kernel, fields, values in operations:
            assert set(values) == set(fields._fields), set(values) ^ set(fields._fields)  # type: ignore[attr-defined]
            self.load(next((group for group in _TOGETHER if kernel in group), [kernel]))
            record = np.zeros(op.RECORD_WORDS, np.int64)
            record[op.KERNEL], record[op.BARRIER] = self.library.address(kernel), 1
            for i, name in enumerate(fields._fields):  # type: ignore[attr-defined]
                record[op.FIRST_FIELD + i] = _word(values[name])
            records.append(record)
        self._team.run(np.stack(records))


def _word(value: float | np.ndarray) -> int:
    if isinstance(value, np.ndarray):
        assert value.flags.c_contiguous
        return value.ctypes.data
    return op.float_word(value) if isinstance(value, float) else int(value)


@functools.cache
def _library(isa: str) -> KernelLibrary:
    return KernelLibrary(choose(isa))


@functools.cache
def kernels(isa: str, n_threads: int = 1) -> Kernels:
    """The kernels of an instruction set; the test is skipped where the processor lacks it."""
    skip_without(isa)
    return Kernels(isa, n_threads)


def count(n: int) -> np.ndarray:
    """A number that kernels read through its address."""
    return np.array([n], np.int64)


class Guarded:
    """Memory for a kernel to write, between two margins that it must not touch."""

    MARGIN = 256

    def __init__(self, n_bytes: int):
        self._all = np.full(n_bytes + 2 * self.MARGIN + 64, 0xA5, np.uint8)
        start = self.MARGIN + (-(self._all.ctypes.data + self.MARGIN) % 64)
        self._start, self._end = start, start + n_bytes
        self.bytes = self._all[start : self._end]

    def rows(self, n: int) -> np.ndarray:
        """The memory as rows of n floats."""
        return self.bytes.view(np.float32).reshape(-1, n)

    def check(self) -> None:
        """Fail where something was written outside."""
        assert (self._all[: self._start] == 0xA5).all(), "written before the memory"
        assert (self._all[self._end :] == 0xA5).all(), "written behind the memory"
