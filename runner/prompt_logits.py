"""The logits after every token of a text: what perplexity and comparisons between runners are made of."""

from collections.abc import Iterator, Sequence

import numpy as np

from llmrun.runner.batch import Batch, residual_ring
from llmrun.runner.kv_cache import blocks_for
from llmrun.runner.model import Model

CHUNK_TOKENS = 128  # a chunk of logits over a vocabulary of 262,144 is 134 MB


def prompt_logits(model: Model, tokens: Sequence[int]) -> Iterator[np.ndarray]:
    """Run a text through a model and yield the logits after each of its tokens, in order, a chunk at a time.

    Each chunk is (n, n_vocab) float32 and valid until the next is asked for. The text takes the first
    `blocks_for(len(tokens))` blocks of the KV cache, and `ring_blocks(model.residual_blocks)` more, which nobody else
    may be using; on the model of an engine, `engine.kv_cache.clear()` before the engine's next request.
    """
    table = np.arange(blocks_for(len(tokens)), dtype=np.int32)[None]
    residuals = residual_ring(table.size, table.size, model.residual_blocks)[None]
    for first in range(0, len(tokens), CHUNK_TOKENS):
        chunk = np.array(tokens[first : first + CHUNK_TOKENS], np.int32)
        rows = np.arange(len(chunk), dtype=np.int32)
        yield model.forward(Batch(chunk, rows + np.int32(first), np.zeros_like(rows), table, rows, residuals))
