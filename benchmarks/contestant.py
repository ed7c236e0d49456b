"""Who is measured: runners that can be asked how fast they are at a case. See also `llama_bench`."""

from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from case import Case
from peer import Peer

from llmrun.runner.model import Model
from llmrun.runner.speed import SpeedTest


class Contestant(Protocol):
    """A runner with a model."""

    @property
    def name(self) -> str:
        """The head of its column."""
        ...

    @property
    def about(self) -> str:
        """Version and build; no paths."""
        ...

    def can(self, case: Case) -> bool:
        """Whether it has a way to measure a case."""
        ...

    def prepare(self, case: Case) -> None:
        """Fill contexts up to the depth, and run once so that caches are warm; before `speed`, once a case."""
        ...

    def speed(self, case: Case) -> float:
        """Tokens a second."""
        ...


class Llmrun:
    """Ours, in this process."""

    name = "llmrun"

    def __init__(self, model: Model, about: str) -> None:
        self.model, self.about = model, about

    def can(self, case: Case) -> bool:
        """Every case."""
        return case.n_ctx <= self.model.config.n_ctx_train

    def prepare(self, case: Case) -> None:
        """Reserve the context and fill it."""
        self._test = SpeedTest(self.model, case.n_sequences, case.n_ctx)
        if case.depth:
            self._test.prefill(case.depth)
        self.speed(case)

    def speed(self, case: Case) -> float:
        """Tokens a second."""
        test = self._test
        return case.n_total / (
            test.prefill(case.n_tokens) if case.depth is None else test.decode(case.depth, case.n_tokens)
        )


class LlamaCpp:
    """llama.cpp through llama-cpp-python, in a process that keeps the model and the context from round to round."""

    name = "llama.cpp"

    def __init__(self, python: str, model: Path, n_threads: int, n_ctx: int, n_vocab: int) -> None:
        self._peer = Peer(python, model, n_threads, n_ctx)
        self._tokens = np.random.default_rng(0).integers(0, n_vocab, n_ctx).tolist()
        self.about = f"llama-cpp-python {self._peer.about['version']}: {self._peer.about['system']}"

    def can(self, case: Case) -> bool:
        """Every case, but many sequences only from an empty context."""
        return case.n_sequences == 1 or case.depth == 0

    def prepare(self, case: Case) -> None:
        """Fill the context."""
        if case.depth:
            self._peer.prefill(self._tokens[: case.depth])
        self.speed(case)

    def speed(self, case: Case) -> float:
        """Tokens a second."""
        tokens = self._tokens[: case.n_tokens]
        if case.depth is None:
            return case.n_total / self._peer.prefill(tokens)
        if case.n_sequences > 1:
            return case.n_total / self._peer.decode_together(case.n_sequences, tokens)
        return case.n_total / self._peer.decode(case.depth, tokens)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._peer.__exit__(kind, error, trace)
