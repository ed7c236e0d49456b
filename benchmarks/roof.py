"""The roof as a contestant: a runner that would do nothing but read what a token has to read."""

import time
from collections.abc import Callable
from statistics import harmonic_mean

from case import Case

from llmrun.runner.model import Model

SECONDS = 1.0  # of reading, for each measurement


class Roof:
    """Reads the weights where they are, with the threads that run the model.

    Other memory will not do: on a virtual machine one gigabyte is read a fifth faster than the next. It has its
    turn in every round, right behind llmrun, because the memory of a machine that is shared with others is fast at one
    moment and slow at the next. Keys and values count as if they were read as fast.
    """

    name = "roof"
    about = ""

    def __init__(self, model: Model, bytes_of_token: Callable[[Case], int | None]) -> None:
        self._model, self._bytes_of_token = model, bytes_of_token

    def can(self, case: Case) -> bool:
        """Those where every token is read for alone."""
        return self._bytes_of_token(case) is not None

    def prepare(self, case: Case) -> None:
        """Read everything once."""
        self.speed(case)

    def speed(self, case: Case) -> float:
        """Tokens a second."""
        n_bytes = self._bytes_of_token(case)
        assert n_bytes is not None
        speeds, start = [], time.perf_counter()
        while time.perf_counter() < start + SECONDS:
            speeds.append(self._model.read_speed())
        return harmonic_mean(speeds) / n_bytes  # with the moments when the machine stands still, as in decoding
