"""What changes from step to step: the arrays that the records of a program point to, and the KV cache."""

from itertools import pairwise

import numpy as np

from llmrun.cpu_kernels.kv_types import BLOCK_TOKENS, RUN_BLOCKS

QUERY_COLUMNS = 32
"""Query columns (tokens x heads of a group) that share one read of keys and values, as long as a token allows it."""

MAX_COLUMNS = 64
"""Query columns that there is room for: the most heads of a group."""

TILE = 4
"""Query columns in registers at once."""

SCORE_BYTES = TILE * (4 * BLOCK_TOKENS + 2 * BLOCK_TOKENS + 16)
"""Bytes for a block's weights of a tile, as floats and as pairs of bytes, and for its limits (see softmax)."""


def column_bytes(head_dim: int) -> int:
    """Bytes of a partial result of one column: exponent, sum, factor, and 13 unused floats, then the values."""
    return 64 + 4 * head_dim


def attention_scratch_bytes(head_dim: int) -> int:
    """Bytes that a thread needs: query columns, partial and total results, the weights of a block for a tile."""
    return MAX_COLUMNS * (4 * head_dim + 2 * column_bytes(head_dim)) + SCORE_BYTES


def partial_bytes(head_dim: int, n_blocks: int, n_threads: int) -> int:
    """Bytes for the partial results of every run, for as many pieces as are ever spread over the threads."""
    return spread_limit(n_threads) * -(-n_blocks // RUN_BLOCKS) * MAX_COLUMNS * column_bytes(head_dim)


def spread_limit(n_threads: int) -> int:
    """Pieces of attention (query tiles x key/value heads) below which their runs are spread over the threads."""
    return 4 * n_threads if n_threads > 1 else 0


class Step:
    """Arrays of fixed addresses, filled anew for every batch."""

    def __init__(
        self,
        max_tokens: int,
        max_blocks: int,
        n_kv_heads: int,
        group: int,
        n_threads: int,
        angles: dict[str, np.ndarray],
    ):
        """Reserve the arrays.

        `angles` gives the radians a position of each named rotary table, (rope_dim / 2,); `group` is how many query
        heads share a key/value head, `max_blocks` how many blocks a sequence can have.
        """
        assert group <= MAX_COLUMNS, group
        self.max_tokens, self.max_blocks = max_tokens, max_blocks
        self._n_kv_heads, self._group, self._spread_limit = n_kv_heads, group, spread_limit(n_threads)
        self._angles = angles
        self._arrays: dict[str, np.ndarray] = {
            "n_tokens": np.zeros(1, np.int64),
            "n_logits": np.zeros(1, np.int64),
            "n_tiles": np.zeros(1, np.int64),
            "spread": np.zeros(1, np.int64),
            "tokens": np.zeros(max_tokens, np.int32),
            "positions": np.zeros(max_tokens, np.int32),
            "sequences": np.zeros(max_tokens, np.int32),
            "logit_rows": np.zeros(max_tokens, np.int32),
            "types": np.zeros(max_tokens, np.int32),  # of an encoder's tokens: all of the first sentence
            "lengths": np.zeros(max_tokens, np.int32),  # of each sequence, up to its last token in the batch
            "tiles": np.zeros((max_tokens, 2), np.int32),
            "block_tables": np.zeros((max_tokens, max_blocks), np.int32),
            "residual_tables": np.zeros((max_tokens, max_blocks), np.int32),
            **{name: np.zeros((max_tokens, len(rates), 2), np.float32) for name, rates in angles.items()},
        }

    @property
    def table_stride(self) -> int:
        """Bytes of a row of the block tables, and of the residual tables."""
        return 4 * self.max_blocks

    def address(self, name: str) -> int:
        """Where an array is."""
        return self._arrays[name].ctypes.data

    def fill(
        self,
        tokens: np.ndarray,
        positions: np.ndarray,
        sequences: np.ndarray,
        block_tables: np.ndarray,
        logit_rows: np.ndarray,
        residual_tables: np.ndarray | None = None,
    ) -> None:
        """Take over a batch; the arrays are those of `runner.batch.Batch`."""
        n = len(tokens)
        assert n <= self.max_tokens, (n, self.max_tokens)
        assert block_tables.shape[1] <= self.max_blocks, (block_tables.shape, self.max_blocks)
        arrays = self._arrays
        arrays["n_tokens"][0], arrays["n_logits"][0] = n, len(logit_rows)
        for name, values in (("tokens", tokens), ("positions", positions), ("sequences", sequences)):
            arrays[name][:n] = values
        arrays["logit_rows"][: len(logit_rows)] = logit_rows
        arrays["lengths"][sequences] = positions + 1  # the last one counts
        tables = slice(len(block_tables)), slice(block_tables.shape[1])
        arrays["block_tables"][tables] = block_tables
        arrays["residual_tables"][tables] = -1 if residual_tables is None else residual_tables
        for name, rates in self._angles.items():
            angles = positions[:, None] * rates
            arrays[name][:n, :, 0] = np.cos(angles)
            arrays[name][:n, :, 1] = np.sin(angles)
        self._tile(sequences, positions // (BLOCK_TOKENS * RUN_BLOCKS))

    def _tile(self, sequences: np.ndarray, runs: np.ndarray) -> None:
        """Cut the tokens into tiles of at most QUERY_COLUMNS columns, of one sequence and one run of blocks each."""
        longest = max(1, QUERY_COLUMNS // self._group)
        starts = [0, *(np.flatnonzero(np.diff(sequences) | np.diff(runs)) + 1).tolist(), len(sequences)]
        tiles = [
            (first, min(longest, end - first))
            for start, end in pairwise(starts)
            for first in range(start, end, longest)
        ]
        self._arrays["tiles"][: len(tiles)] = tiles
        self._arrays["n_tiles"][0] = len(tiles)
        self._arrays["spread"][0] = len(tiles) * self._n_kv_heads < self._spread_limit
