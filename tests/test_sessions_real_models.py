"""A resumed chat on a real model: the same bits as without the restart, and nothing computed twice."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from recorded_chats import read
from schedules import fingerprints

from llmrun.runner.batch import Batch
from llmrun.runner.engine import Engine
from llmrun.runner.sampler import SamplingParams
from llmrun.runner.session import Session
from llmrun.runner.session_store import SessionStore

PARAMS = SamplingParams(seed=1, max_tokens=70)
TEXTS = ("Tell me about the sea, please. " * 12, "Why?", "And then?")


@pytest.fixture(params=["f16", "q8_0", "q4_0"])
def engine(request: pytest.FixtureRequest, smollm2_path: Path) -> Iterator[Engine]:
    with Engine.load(smollm2_path, n_ctx=1024, kv_type=request.param) as engine:
        yield engine


def test_the_same_bits_as_without_a_restart(
    engine: Engine, smollm2_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    forward = engine.model.forward

    def watched(batch: Batch) -> np.ndarray:
        logits = forward(batch)
        rows.extend(fingerprints(logits))
        return logits

    monkeypatch.setattr(engine.model, "forward", watched)

    def conversation(folder: Path, restart: bool) -> tuple[list[list[int]], list[int]]:
        rows.clear()
        engine.kv_cache.clear()
        store = SessionStore(folder)
        info = store.create("a", "smollm2", "Be brief.")
        session = Session.open(engine, store, info, PARAMS, notify=pytest.fail)
        answers = []
        for text in TEXTS:
            if restart:
                session.close()
                engine.kv_cache.clear()
                engine.model.allocate_kv(engine.kv_cache.n_blocks)  # all zeros
                session = Session.open(engine, store, info, PARAMS, notify=pytest.fail)
                assert len(session.chat.table.tokens) == max(0, session.chat.n_tokens - 1)
            generation = session.send(text)
            answers.append(read(generation))
            assert generation.stats.n_cached > 0 or len(answers) == 1
        session.close()
        return answers, rows.copy()

    assert conversation(tmp_path / "a", restart=False) == conversation(tmp_path / "b", restart=True)


def test_another_type_of_keys_and_values(smollm2_path: Path, tmp_path: Path) -> None:
    store = SessionStore(tmp_path)
    info = store.create("a", "smollm2")
    notices: list[str] = []
    for kv_type in ("f16", "q8_0"):
        with (
            Engine.load(smollm2_path, n_ctx=512, kv_type=kv_type) as engine,
            Session.open(engine, store, info, PARAMS, notify=notices.append) as session,
        ):
            generation = session.send("Why?", SamplingParams(max_tokens=5))
            read(generation)
            assert generation.stats.n_cached == 0
    assert len(notices) == 1
    assert "keys and values of another type" in notices[0]
    assert len(store.messages(info.id)) == 4
