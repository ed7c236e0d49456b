"""How likely a model finds a text that is given to it: the log probabilities of a prompt's ids."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from llmrun.runner.batch import Batch
from llmrun.runner.block_table import BlockTable
from llmrun.runner.engine import Engine
from llmrun.runner.kv_cache import BLOCK_TOKENS
from llmrun.runner.piece import TokenLogprobs
from llmrun.runner.sampler import log_probabilities

if TYPE_CHECKING:
    from llmrun.runner.engine_thread import EngineThread

RETRY_AFTER = 0.05  # seconds; running answers give their blocks back when they end


async def prompt_scores(engine_thread: "EngineThread", ids: Sequence[int], n_top: int) -> list[TokenLogprobs]:
    """Return what the model thinks of every id but the first, which follows nothing, with the `n_top` likeliest.

    Computed a block at a time, between two steps, so that running answers go on. Where these hold the whole cache, it
    waits for them.
    """
    scores: list[TokenLogprobs] = []
    while len(scores) < len(ids) - 1:
        first = len(scores)
        more = await engine_thread.call(lambda engine, first=first: score_block(engine, ids, first, n_top))  # type: ignore[misc]
        if more is None:
            await asyncio.sleep(RETRY_AFTER)
        else:
            scores += more
    return scores


def score_block(engine: Engine, ids: Sequence[int], first: int, n_top: int) -> list[TokenLogprobs] | None:
    """Return the scores of the ids after `first`, to the end of its block; None if the cache has no room now.

    Runs on the engine's thread, between two steps. What is computed stays in the cache for whoever comes next.
    """
    end = min((first // BLOCK_TOKENS + 1) * BLOCK_TOKENS, len(ids) - 1)
    table = engine.new_table()
    try:
        table.reuse(ids[:first])
        if not table.reserve(end):
            return None
        scores: list[TokenLogprobs] = []
        while len(table.tokens) < end:
            start = len(table.tokens)
            stop = min(start - start % BLOCK_TOKENS + BLOCK_TOKENS, end)
            batch = _batch(ids[start:stop], start, table, wanted=range(max(first, start), stop))
            logits = engine.model.forward(batch)
            table.extend(ids[start:stop])
            following = ids[max(first, start) + 1 : stop + 1]
            scores += [log_probabilities(row, token, n_top) for row, token in zip(logits, following, strict=True)]
        return scores
    finally:
        table.release()


def _batch(ids: Sequence[int], first: int, table: BlockTable, wanted: range) -> Batch:
    """Lay a part of one sequence out, with logits after its positions in `wanted`."""
    n = len(ids)
    residuals = [table.residuals.get(i, -1) for i in range(len(table.blocks))]
    return Batch(
        np.array(ids, np.int32),
        np.arange(first, first + n, dtype=np.int32),
        np.zeros(n, np.int32),
        np.array([table.blocks], np.int32),
        np.arange(wanted.start - first, wanted.stop - first, dtype=np.int32),
        np.array([residuals], np.int32),
    )
