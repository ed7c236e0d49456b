"""A model and a tokenizer without weights, for running the engine in tests."""

import dataclasses
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from llmrun.runner.batch import Batch
from llmrun.runner.config import ModelConfig
from llmrun.runner.engine import Engine
from llmrun.runner.kv_cache import BLOCK_TOKENS
from llmrun.runner.model import BlockContents

START, END, BOS = 256, 257, 258
N_VOCAB = 320
N_EMBD = 8
_SPECIAL = {START: "<|start|>", END: "<|end|>", BOS: "<|bos|>"}


class ByteTokenizer:
    """One id a byte, and three special tokens; what is written is what `Tokenizer` offers the engine."""

    n_vocab = N_VOCAB
    stop_ids = frozenset({END})
    special_ids = frozenset(_SPECIAL)
    bos_id = BOS

    def __init__(self, adds_bos: bool = False) -> None:
        self.adds_bos = adds_bos

    @property
    def vocabulary_bytes(self) -> list[bytes]:
        return [self.token_bytes(token) for token in range(self.n_vocab)]

    def encode(
        self, text: str, add_special: bool = True, parse_special: bool = True, continues: bool = False
    ) -> list[int]:
        ids, at = ([BOS] if add_special and self.adds_bos else []), 0
        while at < len(text):
            named = [(token, name) for token, name in _SPECIAL.items() if parse_special and text.startswith(name, at)]
            if named:
                ids.append(named[0][0])
                at += len(named[0][1])
            else:
                ids.extend(text[at].encode())
                at += 1
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        return b"".join(self.token_bytes(token) for token in ids).decode("utf-8", "replace")

    def token_id(self, text: str) -> int | None:
        return next((token for token, name in _SPECIAL.items() if name == text), None)

    def id_named(self, name: str) -> int | None:
        return {"bos": BOS, "eos": END}.get(name)

    def token_bytes(self, token: int) -> bytes:
        return _SPECIAL[token].encode() if token in _SPECIAL else bytes([token]) if token < 256 else b"?"

    def is_special(self, token: int) -> bool:
        return token in _SPECIAL


class MergingTokenizer(ByteTokenizer):
    """Encodes "ab" as one id, which a model may as well write as two."""

    MERGED = 300

    def encode(
        self, text: str, add_special: bool = True, parse_special: bool = True, continues: bool = False
    ) -> list[int]:
        ids: list[int] = []
        for token in super().encode(text, add_special, parse_special):
            if token == ord("b") and ids and ids[-1] == ord("a"):
                ids[-1] = self.MERGED
            else:
                ids.append(token)
        return ids

    def token_bytes(self, token: int) -> bytes:
        return b"ab" if token == self.MERGED else super().token_bytes(token)


class TurnTemplate:
    """Renders messages as <|start|>role, a line break, the text, <|end|>; `edit` changes what was said before."""

    def __init__(self, edit: Callable[[str], str] = lambda text: text) -> None:
        self.edit = edit

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        turns = (f"<|start|>{m['role']}\n{self.edit(m['content'])}<|end|>" for m in messages)
        return "".join(turns) + "<|start|>assistant\n"


class MockModel:
    """Logits are a function of the ids that the model finds in its own KV memory, through the block tables.

    So an id that was never computed, or was overwritten by another sequence, changes what comes out. `choose` gives the
    next id for a history; without it the logits are noise, seeded by the history. With `residual_blocks` it keeps
    residuals too, and finds out if those that a token needs are not there.
    """

    def __init__(
        self, choose: Callable[[list[int]], int] | None = None, n_ctx_train: int = 4096, residual_blocks: int = 0
    ) -> None:
        sizes: dict[str, Any] = {field.name: 1 for field in dataclasses.fields(ModelConfig)}
        sizes |= {"architecture": "mock", "name": "mock", "n_vocab": N_VOCAB, "n_ctx_train": n_ctx_train}
        sizes |= {"n_embd": N_EMBD, "pooling": "mean"}
        self.config = ModelConfig(**sizes)
        self.choose, self.residual_blocks = choose, residual_blocks
        self.batches: list[Batch] = []
        self.is_closed = False

    kv_block_bytes = 4 * BLOCK_TOKENS

    def allocate_kv(self, n_blocks: int) -> None:
        self.memory = np.full((n_blocks, BLOCK_TOKENS), -1, np.int32)

    def forward(self, batch: Batch) -> np.ndarray:
        histories = self._histories(batch, self.memory)
        return np.array([self._logits(history) for history in histories], np.float32).reshape(-1, N_VOCAB)

    def allocate_hidden(self, n_blocks: int) -> None:
        self.hidden_memory = np.full((n_blocks, BLOCK_TOKENS), -1, np.int32)

    def hidden(self, batch: Batch) -> np.ndarray:
        histories = self._histories(batch, self.hidden_memory)
        return np.array([self.hidden_state(history) for history in histories], np.float32).reshape(-1, N_EMBD)

    @staticmethod
    def hidden_state(history: list[int]) -> np.ndarray:
        assert min(history) >= 0, "a token that was never computed"
        rng = np.random.default_rng(zlib.crc32(np.array(history, np.int32).tobytes()))
        return rng.normal(0, 1, N_EMBD).astype(np.float32)

    def _histories(self, batch: Batch, memory: np.ndarray) -> list[list[int]]:
        """Store the tokens, and give for each of the wanted ones all ids of its sequence up to it."""
        self.batches.append(batch)
        starts = np.flatnonzero(np.diff(batch.sequence)) + 1
        for run in np.split(np.arange(batch.n_tokens), starts):
            assert (np.diff(batch.positions[run]) == 1).all(), "the tokens of a sequence are consecutive"
        blocks = batch.block_tables[batch.sequence, batch.positions // BLOCK_TOKENS]
        assert (blocks >= 0).all(), "a token without a block"
        memory[blocks, batch.positions % BLOCK_TOKENS] = batch.tokens
        if self.residual_blocks and memory is self.memory:
            self._check_residuals(batch)
        tables = batch.block_tables[batch.sequence[batch.logit_rows]]
        ends = batch.positions[batch.logit_rows] + 1
        return [memory[table].reshape(-1)[:end].tolist() for table, end in zip(tables, ends, strict=True)]

    def _check_residuals(self, batch: Batch) -> None:
        """Store them, and look at all that the tokens need: they are told from ids by being negative."""
        assert batch.residual_tables is not None
        residuals = batch.residual_tables[batch.sequence, batch.positions // BLOCK_TOKENS]
        assert (residuals >= 0).all(), "a token without room for its residuals"
        self.memory[residuals, batch.positions % BLOCK_TOKENS] = -2 - batch.tokens
        for sequence, position in zip(batch.sequence, batch.positions, strict=True):
            table, of_table = batch.block_tables[sequence], batch.residual_tables[sequence]
            first = position // BLOCK_TOKENS // self.residual_blocks * self.residual_blocks
            for i in {0, *range(first, position // BLOCK_TOKENS + 1)}:
                n = min(BLOCK_TOKENS, position + 1 - i * BLOCK_TOKENS)
                assert of_table[i] >= 0, "residuals that were given up"
                assert (self.memory[of_table[i], :n] == -2 - self.memory[table[i], :n]).all(), "residuals of others"

    def read_kv(self, block: int, out: np.ndarray) -> None:
        out[:] = self.memory[block].view(np.uint8)

    def write_kv(self, block: int, data: BlockContents) -> None:
        self.memory[block] = np.frombuffer(data, np.int32)

    def copy_kv(self, source: int, target: int) -> None:
        self.memory[target] = self.memory[source]

    def fingerprint(self) -> str:
        return "mock"

    def close(self) -> None:
        self.is_closed = True

    @property
    def n_tokens(self) -> int:
        """Number of tokens that the model has computed so far."""
        return sum(batch.n_tokens for batch in self.batches)

    def _logits(self, history: list[int]) -> np.ndarray:
        assert min(history) >= 0, "a token that was never computed"
        if self.choose is not None:
            return np.where(np.arange(N_VOCAB) == self.choose(history), 20, 0).astype(np.float32)
        rng = np.random.default_rng(zlib.crc32(np.array(history, np.int32).tobytes()))
        logits = rng.normal(0, 2, N_VOCAB).astype(np.float32)
        logits[256:] = -50  # no special token by chance
        return logits


def says(text: str, after: int) -> Callable[[list[int]], int]:
    """Make a model say `text`, then end, after a prompt of `after` ids."""
    ids = [*text.encode(), END]
    return lambda history: ids[len(history) - after]


def mock_engine(model: MockModel, template: TurnTemplate | None = None, **options: Any) -> Engine:
    tokenizer = options.pop("tokenizer", None) or ByteTokenizer()
    return Engine(model, tokenizer, template, **options)  # type: ignore[arg-type]
