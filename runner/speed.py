"""How fast a model is: the time of a prefill and of a decode step, on the model alone, without engine or sampler."""

import time

import numpy as np

from llmrun.runner.batch import Batch, residual_ring, ring_blocks
from llmrun.runner.kv_cache import BLOCK_TOKENS, blocks_for
from llmrun.runner.model import Model
from llmrun.runner.scheduler import TOKENS_PER_STEP


class SpeedTest:
    """Drives `batch` sequences of random tokens through a model whose KV cache nobody else uses."""

    def __init__(self, model: Model, batch: int, n_tokens: int) -> None:
        """Reserve a cache for `batch` sequences of up to `n_tokens` tokens."""
        self.model = model
        self.batch = batch
        n_blocks = blocks_for(n_tokens)
        n_ring = ring_blocks(model.residual_blocks)
        model.allocate_kv(batch * (n_blocks + n_ring))
        self._tables = np.arange(batch * n_blocks, dtype=np.int32).reshape(batch, n_blocks)
        firsts = [batch * n_blocks + n_ring * row for row in range(batch)]
        self._residuals = np.stack([residual_ring(n_blocks, first, model.residual_blocks) for first in firsts])
        self._random = np.random.default_rng(0)
        self.n_max = n_blocks * BLOCK_TOKENS

    def prefill(self, n_tokens: int) -> float:
        """Put `n_tokens` tokens into every sequence, in chunks as the engine does; returns the seconds it took."""
        assert n_tokens <= self.n_max
        start = time.perf_counter()
        for row in range(self.batch):
            for first in range(0, n_tokens, TOKENS_PER_STEP):
                n = min(TOKENS_PER_STEP, n_tokens - first)
                logit_rows = [n - 1] if first + n == n_tokens else []
                self._forward(np.full(n, row, np.int32), np.arange(first, first + n, dtype=np.int32), logit_rows)
        return time.perf_counter() - start

    def decode(self, depth: int, n_steps: int) -> float:
        """Decode `n_steps` tokens in every sequence that holds `depth` tokens; returns the seconds it took."""
        assert depth + n_steps <= self.n_max
        rows = np.arange(self.batch, dtype=np.int32)
        start = time.perf_counter()
        for position in range(depth, depth + n_steps):
            self._forward(rows, np.full(self.batch, position, np.int32), rows)
        return time.perf_counter() - start

    def _forward(self, rows: np.ndarray, positions: np.ndarray, logit_rows: np.ndarray | list[int]) -> None:
        tokens = self._random.integers(0, self.model.config.n_vocab, len(rows), dtype=np.int32)
        first, last = int(rows[0]), int(rows[-1]) + 1
        tables, residuals = (np.ascontiguousarray(x[first:last]) for x in (self._tables, self._residuals))
        wanted = np.array(logit_rows, np.int32)
        self.model.forward(Batch(tokens, positions, rows - np.int32(first), tables, wanted, residuals))
