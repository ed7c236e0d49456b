"""Embeddings from an engine on a thread of its own."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np

if TYPE_CHECKING:
    from llmrun.runner.engine_thread import EngineThread

_turns: "WeakKeyDictionary[EngineThread, WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock]]" = (
    WeakKeyDictionary()
)
"""One batch is asked for at a time, for all that wait: or many callers would come between two steps of an answer."""


async def embed_texts(
    thread: "EngineThread", texts: Sequence[Sequence[int]], pooling: str | None = None, normalize: bool = True
) -> np.ndarray:
    """Return the vectors (n_texts, n_embd) float32 of texts given as ids; see `Embedder.submit`.

    They are computed in batches between the steps of running answers. Whoever is cancelled while waiting for them has
    the rest given up.
    """
    turn = _turns.setdefault(thread, WeakKeyDictionary()).setdefault(asyncio.get_running_loop(), asyncio.Lock())
    request = await thread.call(lambda engine: engine.embedder.submit(texts, pooling, normalize))
    try:
        while not request.is_done:
            async with turn:
                if not request.is_done:
                    await thread.call(lambda engine: engine.embedder.step())
        return request.vectors()
    finally:
        request.cancel()
