"""What the engine asks of a model, on whatever device it runs."""

from typing import Protocol

import numpy as np

from llmrun.runner.batch import Batch
from llmrun.runner.config import ModelConfig

BlockContents = bytes | bytearray | memoryview | np.ndarray


class Model(Protocol):
    """Weights and the program that runs them, with the memory of the KV cache."""

    @property
    def config(self) -> ModelConfig:
        """The hyperparameters of the model."""
        ...

    def allocate_kv(self, n_blocks: int) -> None:
        """Reserve `n_blocks` blocks of BLOCK_TOKENS tokens; the engine calls this once, before `forward`."""
        ...

    def forward(self, batch: Batch) -> np.ndarray:
        """Compute a batch and store its keys and values.

        Returns float32 logits (n_logit_rows, n_vocab), one row for each of `batch.logit_rows`; the array is valid until
        the next call.
        """
        ...

    def read_speed(self) -> float:
        """Read the weights of a token where they are and do nothing else; bytes a second.

        It is the roof of decoding: memory that lies elsewhere may be read faster or slower.
        """
        ...

    def allocate_hidden(self, n_blocks: int) -> None:
        """Reserve `n_blocks` blocks for `hidden`, apart from the KV cache, in place of those reserved before."""
        ...

    def hidden(self, batch: Batch) -> np.ndarray:
        """Compute a batch whose block tables are of the blocks of `allocate_hidden`.

        Returns what the logits are made of, float32 (n_logit_rows, n_embd), one row for each of `batch.logit_rows`: the
        activations behind the last norm. The array is valid until the next call.
        """
        ...

    @property
    def kv_block_bytes(self) -> int:
        """Bytes of one block: the keys and values of BLOCK_TOKENS tokens in all layers."""
        ...

    @property
    def residual_blocks(self) -> int:
        """Blocks in a run whose residuals a token needs, besides those of the first block; 0 if there are none.

        See `Batch.residual_tables`.
        """
        ...

    def read_kv(self, block: int, out: np.ndarray) -> None:
        """Copy a block to `out` (kv_block_bytes,) uint8.

        May be called on any thread while `forward` runs, if the block is not written meanwhile; full ones never are.
        """
        ...

    def write_kv(self, block: int, data: BlockContents) -> None:
        """Fill a block with what `read_kv` gave, on this model or on one of the same fingerprint."""
        ...

    def copy_kv(self, source: int, target: int) -> None:
        """Copy the contents of a block to another."""
        ...

    def fingerprint(self) -> str:
        """All that keys and values depend on besides the ids, as a SHA-256 in hexadecimal digits."""
        ...

    def close(self) -> None:
        """Give back threads and memory; the model cannot be used afterwards."""
        ...
