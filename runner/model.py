"""What the engine asks of a model, on whatever device it runs."""

from typing import Protocol

import numpy as np

from llmrun.runner.batch import Batch
from llmrun.runner.config import ModelConfig


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

    def close(self) -> None:
        """Give back threads and memory; the model cannot be used afterwards."""
        ...
