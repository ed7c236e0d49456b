"""The team of threads: the same results on any number of threads, sleep when there is nothing to do, a clean end."""

import linecache
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import numpy as np
import pytest
from kernel_runner import count

from llmrun.cpu_kernels import op
from llmrun.cpu_kernels.fields import GATED, NORM
from llmrun.cpu_kernels.isa import choose
from llmrun.cpu_kernels.library import KernelLibrary
from llmrun.cpu_kernels.team import Team

N_ROWS, N = 3, 1024  # three rows among two threads: who norms a row is not who gates it


class Chain:
    """Operations that each read what other threads wrote in the one before."""

    def __init__(self, library: KernelLibrary, length: int):
        library.load(["norm", "gated-silu"])
        self._input, self._between, self._output = (np.zeros((N_ROWS, N), np.float32) for _ in range(3))
        self._weight, self._n_rows = np.linspace(0.5, 2, N, dtype=np.float32), count(N_ROWS)
        self.program = np.zeros((length, op.RECORD_WORDS), np.int64)
        for i, record in enumerate(self.program):
            if i % 2:
                values = {"gate": self._between, "up": self._input, "out": self._output}
                _fill(record, library.address("gated-silu"), GATED, values | {"n_tokens": self._n_rows})
            else:
                values = {"x": self._output if i else self._input, "weight": self._weight, "out": self._between}
                _fill(record, library.address("norm"), NORM, values | {"n_tokens": self._n_rows})

    def result(self, team: Team, seed: int) -> np.ndarray:
        """What comes out for a random input."""
        self._input[:] = np.random.default_rng(seed).normal(size=(N_ROWS, N))
        team.run(self.program)
        return self._output.copy()


def _fill(record: np.ndarray, kernel: int, fields: tuple, arrays: dict[str, np.ndarray]) -> None:
    values = {name: 0 for name in fields._fields}  # type: ignore[attr-defined]
    values |= {name: 4 * N for name in values if name.endswith("_stride")}
    values |= {name: array.ctypes.data for name, array in arrays.items()} | {"n": N}
    record[op.KERNEL], record[op.BARRIER] = kernel, 1
    record[op.FIRST_FIELD : op.FIRST_FIELD + len(values)] = list(values.values())


@pytest.fixture(scope="module")
def library() -> KernelLibrary:
    return KernelLibrary(choose())


@pytest.fixture
def chain(library: KernelLibrary) -> Chain:
    return Chain(library, 20)


@pytest.fixture(params=[1, 2, 3], ids="{} threads".format)
def team(request: pytest.FixtureRequest, library: KernelLibrary) -> Iterator[Team]:
    team = Team(library, request.param)
    yield team
    team.close()


@pytest.fixture
def expected(library: KernelLibrary, chain: Chain) -> list[np.ndarray]:
    alone = Team(library, 1)
    results = [chain.result(alone, seed) for seed in range(20)]
    assert all(len(np.unique(result)) > 1000 for result in results)
    return results


def test_many_runs(team: Team, chain: Chain, expected: list[np.ndarray]) -> None:
    for i in range(400):
        assert (chain.result(team, i % 20) == expected[i % 20]).all()


def test_runs_after_naps(team: Team, chain: Chain, expected: list[np.ndarray]) -> None:
    """Pauses around the time after which the helpers fall asleep."""
    for i in range(40):
        time.sleep(i * 0.0005)
        assert (chain.result(team, i % 20) == expected[i % 20]).all()


def test_an_idle_team_sleeps(team: Team, chain: Chain) -> None:
    chain.result(team, 0)
    time.sleep(0.3)  # by then they are asleep
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.1


def test_callers_take_turns(team: Team, library: KernelLibrary, expected: list[np.ndarray]) -> None:
    chains, wrong = [Chain(library, 20) for _ in range(3)], []

    def call(chain: Chain) -> None:
        for i in range(50):
            if (chain.result(team, i % 20) != expected[i % 20]).any():
                wrong.append(i)

    threads = [threading.Thread(target=call, args=(chain,)) for chain in chains]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_an_interrupt_at_any_line(team: Team, chain: Chain, expected: list[np.ndarray]) -> None:
    """Ctrl-C anywhere in `Team.run` leaves a team that works, and no helper alone with a program."""
    lines = 0
    for line in range(100):
        if not _interrupted(team, chain, line):
            break
        lines += 1
        for i in range(3):
            assert (chain.result(team, i) == expected[i]).all()
    assert lines > 5


def _interrupted(team: Team, chain: Chain, at: int) -> bool:
    """Run with a KeyboardInterrupt at one of the lines that are executed; False where there are not so many."""
    left = at

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.endswith("team.py"):
            return None
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
        if event == "line" and line != "try:" and not line.startswith("with "):  # no signal is handled there
            left -= 1
            if left < 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        team.run(chain.program)
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def test_a_refused_program_does_no_harm(team: Team, chain: Chain, expected: list[np.ndarray]) -> None:
    with pytest.raises(AssertionError):
        team.run(chain.program.astype(np.int32))
    with pytest.raises(AssertionError):
        team.run(chain.program[::2])
    assert (chain.result(team, 3) == expected[3]).all()


def test_close_ends_the_threads(library: KernelLibrary, chain: Chain, expected: list[np.ndarray]) -> None:
    before = threading.active_count()
    for nap in (0, 0.3):  # helpers that wait, and helpers that sleep
        team = Team(library, 3)
        chain.result(team, 0)
        time.sleep(nap)
        team.close()
        team.close()
        assert threading.active_count() == before
        assert (chain.result(team, 1) == expected[1]).all(), "a closed team is its caller alone"


def test_many_teams(library: KernelLibrary, chain: Chain, expected: list[np.ndarray]) -> None:
    for i in range(50):
        team = Team(library, 1 + i % 4)
        if i % 3:
            assert (chain.result(team, i % 20) == expected[i % 20]).all()
        team.close()
