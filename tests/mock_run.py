"""The command line on the real engine with a model without weights: `python mock_run.py run MODEL ...`.

The model repeats the last message after "You said: ". Environment: MOCK_SAYS for another answer, MOCK_SLOW for the
seconds that each step takes.
"""

import os
import sys
import time
from typing import Any

import numpy as np
from mock_model import END, START, MockModel, TurnTemplate, mock_engine

from llmrun.cli.app import main
from llmrun.runner.batch import Batch
from llmrun.runner.engine import Engine


def next_id(history: list[int]) -> int:
    """The id that comes next after <|start|>user ... <|end|><|start|>assistant ..., or after raw text."""
    starts = [i for i, token in enumerate(history) if token == START]
    if not starts:
        return END
    asked, n_written = history[starts[-2] : starts[-1]], len(history) - starts[-1] - len("?assistant\n")
    said = bytes(asked[1:-1]).decode().partition("\n")[2]
    text = os.environ.get("MOCK_SAYS") or f"You said: {said}"
    return [*text.encode(), END][n_written]


class SlowModel(MockModel):
    def forward(self, batch: Batch) -> np.ndarray:
        time.sleep(float(os.environ.get("MOCK_SLOW", "0")))
        return super().forward(batch)


def load(_model: object, n_ctx: int | None = None, **_others: Any) -> Engine:
    return mock_engine(SlowModel(next_id), TurnTemplate(), n_ctx=n_ctx)


if __name__ == "__main__":
    Engine.load = load  # type: ignore[assignment,method-assign]
    main(sys.argv[1:])
