"""What one forward pass computes: tokens of one or several sequences, and where their keys and values lie."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Batch:
    """The input of `Model.forward`; plain int32 arrays, so that a model never sees a sequence.

    The tokens of one sequence are consecutive and in ascending position. A token at position p of a sequence
    stores its keys and values in slot `p % BLOCK_TOKENS` of block `block_tables[s, p // BLOCK_TOKENS]` and attends
    to the positions 0..p of that same sequence. Of a type of keys and values with residuals, these lie in the same slot
    of the block in `residual_tables`; see `cpu_kernels/kv_types.py` for which a token needs.

    Two sequences, the first decoding its 71st token, the second prefilling three:

        tokens       [912, 5, 6, 7]
        positions    [ 70, 0, 1, 2]
        sequence     [  0, 1, 1, 1]
        block_tables [[3, 0], [1, -1]]
        logit_rows   [0, 3]
    """

    tokens: np.ndarray  # (n_tokens,) ids
    positions: np.ndarray  # (n_tokens,)
    sequence: np.ndarray  # (n_tokens,) row of block_tables
    block_tables: np.ndarray  # (n_sequences, max_blocks) ids of blocks, -1 beyond the end of a sequence
    logit_rows: np.ndarray  # (n_logit_rows,) which of the tokens need logits, ascending; may be empty
    residual_tables: np.ndarray | None = None  # as block_tables: where the residuals of each block are, -1 for none

    def __post_init__(self) -> None:
        """Check shapes and types before they reach compiled code."""
        n_tokens = len(self.tokens)
        assert n_tokens > 0, "an empty batch"
        assert self.positions.shape == self.sequence.shape == (n_tokens,), "arrays of different lengths"
        assert self.block_tables.ndim == 2, "block_tables is (n_sequences, max_blocks)"
        assert len(self.logit_rows) <= n_tokens, "more rows of logits than tokens"
        residual_tables = self.block_tables if self.residual_tables is None else self.residual_tables
        assert residual_tables.shape == self.block_tables.shape, "an entry of one table has no counterpart"
        for array in (
            *(self.tokens, self.positions, self.sequence, self.block_tables, self.logit_rows),
            residual_tables,
        ):
            assert array.dtype == np.int32, "every array of a batch is int32"
            assert array.flags.c_contiguous, "every array of a batch is contiguous"

    @property
    def n_tokens(self) -> int:
        """Number of tokens in the batch."""
        return len(self.tokens)

    @property
    def n_sequences(self) -> int:
        """Number of sequences that the tokens belong to."""
        return len(self.block_tables)


def residual_ring(n_blocks: int, first: int, residual_blocks: int) -> np.ndarray:
    """A row of `residual_tables` for a text that is computed in order, without a block table: (n_blocks,) int32.

    From block `first` of the cache on; the first block of the text has its own, the others take turns in two runs of
    blocks, which is enough for steps of up to a run. All are -1 for a model that keeps no residuals.
    """
    row = np.full(n_blocks, -1, np.int32)
    if residual_blocks:
        row[:] = first + 1 + np.arange(n_blocks) % (2 * residual_blocks)
        row[0] = first
    return row


def ring_blocks(residual_blocks: int) -> int:
    """Blocks of the cache that `residual_ring` takes."""
    return 1 + 2 * residual_blocks if residual_blocks else 0
