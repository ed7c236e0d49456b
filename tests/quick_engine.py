"""The engine of a real file, with its tokenizer and its template, but with noise for a model: answers cost nothing."""

import dataclasses
from pathlib import Path

import numpy as np
from mock_model import MockModel

from llmrun.quant_formats.gguf_file import GGUFFile
from llmrun.runner.batch import Batch
from llmrun.runner.chat_template import ChatTemplate
from llmrun.runner.config import ModelConfig
from llmrun.runner.engine import Engine
from llmrun.runner.model_host import HostOptions
from llmrun.runner.model_plan import ModelPlan
from llmrun.runner.tokenizer import Tokenizer

LENGTH = 8  # of answers, as far as they may end there
CLOSING = 6.0  # how much likelier the ends of texts, arrays and objects are, so that JSON ends soon


class QuickModel(MockModel):
    """Noise over a real vocabulary that depends on the last id and on the length alone."""

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer) -> None:
        super().__init__(n_ctx_train=config.n_ctx_train)
        sizes = {name: getattr(self.config, name) for name in ("n_embd", "pooling")}
        self.config = dataclasses.replace(config, **sizes)
        self._base = np.zeros(config.n_vocab, np.float32)
        for text in ('"', "}", "]", '"}', "\n"):
            self._base[tokenizer.encode(text, add_special=False)] = CLOSING
        self._stops = sorted(tokenizer.stop_ids)

    def forward(self, batch: Batch) -> np.ndarray:
        self._histories(batch, self.memory)
        self.batches.clear()
        rows = [self._row(int(batch.tokens[row]), int(batch.positions[row])) for row in batch.logit_rows]
        return np.array(rows, np.float32).reshape(-1, len(self._base))

    def _row(self, token: int, position: int) -> np.ndarray:
        logits = self._base.copy()
        logits[np.random.default_rng(token * 4099 + position).integers(0, len(logits), 50)] += 3
        logits[self._stops] = 30 if position % LENGTH == 0 else -5
        return logits


def quick_engine(path: Path, plan: ModelPlan, _options: HostOptions) -> Engine:
    """What `ModelHost` takes as `load`."""
    with GGUFFile.open(path) as gguf:
        tokenizer = Tokenizer.from_gguf(gguf.metadata)
        model = QuickModel(ModelConfig.from_gguf(gguf), tokenizer)
        return Engine(model, tokenizer, ChatTemplate.from_gguf(gguf.metadata), plan.n_ctx, plan.n_parallel)  # type: ignore[arg-type]
