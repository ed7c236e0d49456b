"""What the tests of sessions share: a tiny engine, and a look at what its keys and values are."""

from collections.abc import Callable
from typing import Any

import numpy as np
from mock_model import MockModel, TurnTemplate, mock_engine

from llmrun.runner.engine import Engine
from llmrun.runner.generation import Generation
from llmrun.runner.sampler import SamplingParams
from llmrun.runner.session import Session
from llmrun.runner.session_store import SessionStore

PARAMS = SamplingParams(temperature=0, max_tokens=40)


class LetterModel(MockModel):
    """Says letters, so that an answer has the same ids when it is read again."""

    def _logits(self, history: list[int]) -> np.ndarray:
        logits = super()._logits(history)
        logits[: ord("a")] = logits[ord("z") + 1 :] = -50
        return logits


def engine(**options: Any) -> Engine:
    """Make an engine whose answers are noise that depends on every id before."""
    model = options.pop("model", None) or LetterModel()
    return mock_engine(model, TurnTemplate(), **options)


def read(generation: Generation) -> list[int]:
    """Read an answer to its end; returns its ids."""
    for _ in generation:
        pass
    return generation.ids


def open_session(
    store: SessionStore, which: str | None = None, notify: Callable[[str], None] | None = None, **options: Any
) -> Session:
    """Open a session, the last one by default, or a new one, with an engine of its own."""
    info = store.find(which) if which else store.last() or store.create(None, "mock", "Be brief.")

    def fail(text: str) -> None:
        raise AssertionError(f"an unexpected notice: {text}")

    return Session.open(engine(**options), store, info, PARAMS, notify=notify or fail)


def check_memory(session: Session) -> None:
    """Fail unless the model's memory holds the ids that the table says."""
    table, memory = session.chat.table, session._engine.model.memory  # type: ignore[attr-defined]
    held = memory[table.blocks].reshape(-1)[: len(table.tokens)].tolist() if table.blocks else []
    assert held == table.tokens
