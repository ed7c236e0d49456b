"""A team of threads that runs programs: the caller and n - 1 helpers, which sleep when there is nothing to do."""

import threading

import numpy as np

from llmrun.cpu_kernels.kernels import TEAM_KERNELS
from llmrun.cpu_kernels.library import KernelLibrary, Progress

_LINE_WORDS = 8
_PROGRAM, _N_OPS, _SENT, _STOP, _STATE = (_LINE_WORDS * i for i in (2, 3, 4, 5, 6))  # as in interpreter.py, in words
_FINISHED = _STATE + 1  # programs that the calling thread has run
_ASLEEP = 1


class Team:
    """Runs programs on `n_threads` threads."""

    def __init__(self, library: KernelLibrary, n_threads: int, progress: Progress | None = None):
        assert n_threads >= 1
        self.library, self.n_threads = library, n_threads
        library.load(TEAM_KERNELS, progress)
        self._send, self._run, self._work = (library.function(name) for name in TEAM_KERNELS)
        self._control = np.zeros(_STATE + _LINE_WORDS * (n_threads + 1), np.int64)
        self._address = -(-self._control.ctypes.data // 64) * 64  # on a cache line of its own
        self._words = self._control[(self._address - self._control.ctypes.data) // 8 :]
        self._lock = threading.Lock()
        self._program: np.ndarray | None = None  # kept alive until the next one
        self._wake = [threading.Event() for _ in range(n_threads)]
        self._helpers = [
            threading.Thread(target=self._help, args=(i,), name=f"llmrun-{i}", daemon=True) for i in range(1, n_threads)
        ]
        for helper in self._helpers:
            helper.start()

    def run(self, program: np.ndarray) -> None:
        """Run a program (n_ops, 32) int64 to its end; one caller at a time."""
        assert program.dtype == np.int64
        assert program.flags.c_contiguous
        with self._lock:
            self._take_part()
            self._program = program
            self._words[_PROGRAM], self._words[_N_OPS] = program.ctypes.data, len(program)
            try:
                self._send(self._address, 0, self.n_threads)
            finally:  # an interrupt must not leave the helpers alone with it
                self._take_part()

    def close(self) -> None:
        """End the threads."""
        with self._lock:
            if not self._helpers:
                return
            self._take_part()
            self._words[_STOP] = 1
            self._send(self._address, 0, self.n_threads)
            self._wake_sleepers()
            for helper in self._helpers:
                helper.join()
            self._helpers = []
            self.n_threads = 1
            self._words[_FINISHED] = self._words[_SENT]

    def _take_part(self) -> None:
        """Run the program that was sent, if that has not been done; an interrupt can come at any line of Python."""
        if self._words[_SENT] != self._words[_FINISHED]:
            self._wake_sleepers()
            self._run(self._address, 0, self.n_threads)

    def _wake_sleepers(self) -> None:
        for i in range(1, self.n_threads):
            if self._words[_STATE + _LINE_WORDS * i] == _ASLEEP:
                self._wake[i].set()

    def _help(self, thread: int) -> None:
        while not self._words[_STOP]:
            self._work(self._address, thread, self.n_threads)
            if self._words[_STOP]:
                return
            self._wake[thread].wait()
            self._wake[thread].clear()
