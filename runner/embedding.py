"""Embeddings: texts as vectors, computed in batches beside whatever else the engine does."""

import functools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from llmrun.quant_formats.errors import OutOfMemory, PromptTooLong, UsageError
from llmrun.runner.batch import Batch
from llmrun.runner.config import ModelConfig
from llmrun.runner.kv_cache import blocks_for
from llmrun.runner.memory import available_memory
from llmrun.runner.model import Model

TOKENS_PER_BATCH = 128  # of a model that also writes: about what a step of its answers takes
TOKENS_OF_ENCODER = 512  # in a batch, which holds whole texts
LEAST_BLOCKS = 32  # short texts take a block each, and many of them are computed together

_WANTED: dict[str, Callable[[int], slice]] = {
    "mean": lambda n_tokens: slice(0, n_tokens),
    "cls": lambda n_tokens: slice(0, 1),
    "last": lambda n_tokens: slice(n_tokens - 1, n_tokens),
}
"""Which of a text's tokens its vector is the mean of."""


class EmbeddingRequest:
    """Some texts that are to become vectors; `Embedder.step` carries it forward."""

    def __init__(self, texts: Sequence[Sequence[int]], pooling: str, normalize: bool, n_embd: int) -> None:
        self.texts, self.pooling, self.normalize = texts, pooling, normalize
        self.n_tokens = sum(map(len, texts))
        self.is_cancelled = False
        self._vectors = np.zeros((len(texts), n_embd), np.float32)
        self._n_left = len(texts)
        self._error: BaseException | None = None

    @property
    def is_done(self) -> bool:
        """Whether every text has its vector, or none will get one any more."""
        return self._n_left == 0 or self.is_cancelled

    def vectors(self) -> np.ndarray:
        """The vectors (n_texts, n_embd) float32, once it is done; raises what went wrong."""
        if self._error is not None:
            raise self._error
        assert self._n_left == 0, "still computed, or cancelled"
        return self._vectors

    def cancel(self, error: BaseException | None = None) -> None:
        """Compute no more of it; nothing if it is done. Whoever asks for the vectors gets the error."""
        if not self.is_done:
            self.is_cancelled, self._error = True, error

    def put(self, index: int, rows: np.ndarray) -> None:
        """Take the hidden states (n, n_embd) that the vector of one text is made of."""
        vector = rows.mean(axis=0, dtype=np.float64)
        if self.normalize:
            vector /= max(float(np.sqrt((vector * vector).sum())), 1e-12)
        self._vectors[index] = vector
        self._n_left -= 1


@dataclass(eq=False)
class _Text:
    """One text of a request, while it is computed."""

    request: EmbeddingRequest
    index: int
    blocks: list[int] = field(default_factory=list)
    n_computed: int = 0
    rows: list[np.ndarray] = field(default_factory=list)  # hidden states so far, of the wanted tokens

    @property
    def ids(self) -> Sequence[int]:
        return self.request.texts[self.index]

    def wanted(self, n: int) -> range:
        """Which of the next n tokens the vector is made of, counted from the first of them."""
        wanted = _WANTED[self.request.pooling](len(self.ids))
        first, end = self.n_computed, self.n_computed + n
        return range(max(wanted.start, first) - first, max(min(wanted.stop, end), first) - first)


class Embedder:
    """Turns texts into vectors, a batch a step, with texts of several requests in it.

    What it computes is kept out of the KV cache: neither do running answers lose anything to it, nor does a vector
    depend on what else is computed. Belongs to the thread of its engine.
    """

    def __init__(self, model: Model, n_ctx: int) -> None:
        self._model, self._is_encoder = model, not model.config.is_causal
        self._n_ctx = min(n_ctx, TOKENS_OF_ENCODER) if self._is_encoder else n_ctx
        self._requests: deque[EmbeddingRequest] = deque()  # those that have texts which nobody has begun
        self._next: dict[EmbeddingRequest, int] = {}  # the first such text of each
        self._started: _Text | None = None  # the one text that is computed in part, or waits for room
        self._n_blocks = 0
        self._free: list[int] = []

    def submit(
        self, texts: Sequence[Sequence[int]], pooling: str | None = None, normalize: bool = True
    ) -> EmbeddingRequest:
        """Queue texts, given as ids.

        pooling: "mean", "cls" (the first token) or "last"; by default what the file says, or the mean.
        normalize: whether vectors get a length of one.

        Raises UsageError for an unknown pooling, an empty text or an id outside of the vocabulary, and PromptTooLong
        for a text that does not fit the context.
        """
        config = self._model.config
        pooling = _checked_pooling(pooling, config)
        for i, ids in enumerate(texts):
            self._check_text(ids, f"text {i + 1} of {len(texts)}" if len(texts) > 1 else "the text")
        request = EmbeddingRequest(texts, pooling, normalize, config.n_embd)
        if texts:
            self._requests.append(request)
            self._next[request] = 0
        return request

    def step(self) -> None:
        """Compute a batch of what is queued; nothing if nothing is.

        What goes wrong is for those to know whose texts are in the batch; only an interrupt is raised.
        """
        self._drop_cancelled()
        parts = self._plan()
        if not parts:
            return
        try:
            hidden = self._model.hidden(_batch_of(parts))
        except BaseException as error:  # Ctrl-C too
            for text, _ in parts:
                self._free += text.blocks
                text.request.cancel(error)
            if not isinstance(error, Exception):
                raise
        else:
            self._take_rows(parts, hidden)

    def _take_rows(self, parts: list[tuple[_Text, int]], hidden: np.ndarray) -> None:
        first = 0
        for text, n_tokens in parts:
            n_rows = len(text.wanted(n_tokens))
            text.rows.append(hidden[first : first + n_rows].copy())
            first += n_rows
            text.n_computed += n_tokens
            if text.n_computed == len(text.ids):
                text.request.put(text.index, np.concatenate(text.rows))
                self._free += text.blocks
            else:
                self._started = text

    def _plan(self) -> list[tuple[_Text, int]]:
        """The texts of the next batch, and how many tokens of each; the one that was begun comes first."""
        parts: list[tuple[_Text, int]] = []
        budget = TOKENS_OF_ENCODER if self._is_encoder else TOKENS_PER_BATCH
        while budget and (text := self._take()) is not None:
            n_tokens = len(text.ids) - text.n_computed
            if self._is_encoder and n_tokens > budget:
                self._started = text
                break
            try:
                has_blocks = self._reserve(text, may_grow=not parts)
            except OutOfMemory as error:  # of this request only
                text.request.cancel(error)
                break
            if not has_blocks:
                self._started = text  # it comes first next time
                break
            parts.append((text, min(n_tokens, budget)))
            budget -= parts[-1][1]
        return parts

    def _take(self) -> _Text | None:
        """The next text: of each request in turn."""
        if self._started is not None:
            text, self._started = self._started, None
            return text
        if not self._requests:
            return None
        request = self._requests.popleft()
        index = self._next[request]
        self._next[request] = index + 1
        if index + 1 < len(request.texts):
            self._requests.append(request)
        else:
            del self._next[request]
        return _Text(request, index)

    def _reserve(self, text: _Text, may_grow: bool) -> bool:
        """Give a text its blocks; more are made where none is in use and they are still too few."""
        n_missing = blocks_for(len(text.ids)) - len(text.blocks)
        if n_missing > len(self._free) and may_grow:
            self._allocate(n_missing)
        if n_missing > len(self._free):
            return False
        text.blocks += [self._free.pop() for _ in range(n_missing)]
        return True

    def _allocate(self, n_blocks: int) -> None:
        assert len(self._free) == self._n_blocks, "blocks are in use"
        n_blocks = max(n_blocks, LEAST_BLOCKS)
        needed = (n_blocks - self._n_blocks) * self._model.kv_block_bytes
        if needed > available_memory():
            raise OutOfMemory(
                f"embedding takes {needed >> 20} MiB of memory, which are not available; "
                "close other programs, or embed shorter texts"
            )
        self._model.allocate_hidden(n_blocks)
        self._n_blocks, self._free = n_blocks, list(range(n_blocks - 1, -1, -1))

    def _drop_cancelled(self) -> None:
        for request in [request for request in self._requests if request.is_cancelled]:
            self._requests.remove(request)
            del self._next[request]
        if self._started is not None and self._started.request.is_cancelled:
            self._free += self._started.blocks
            self._started = None

    def _check_text(self, ids: Sequence[int], name: str) -> None:
        n_vocab = self._model.config.n_vocab
        if len(ids) == 0:
            raise UsageError(f"{name} is empty; give at least one word")
        if len(ids) > self._n_ctx:
            raise PromptTooLong(
                f"{name} has {len(ids)} tokens, more than the context of {self._n_ctx}; embed it in parts, "
                f"or use a larger context (the model was trained on {self._model.config.n_ctx_train})"
            )
        if not all(0 <= token < n_vocab for token in ids):
            raise UsageError(f"{name} has ids outside of the vocabulary of {n_vocab}")


def _checked_pooling(pooling: str | None, config: ModelConfig) -> str:
    pooling = pooling or config.pooling or "mean"
    if pooling not in _WANTED:
        raise UsageError(f"pooling {pooling[:40]!r} makes no vector of a text; choose one of {', '.join(_WANTED)}")
    return pooling


def _batch_of(parts: Sequence[tuple[_Text, int]]) -> Batch:
    """Lay the texts of a batch out as arrays, with rows for the tokens that the vectors are made of."""
    tokens: list[int] = []
    positions: list[int] = []
    sequence: list[int] = []
    rows: list[int] = []
    tables = np.full((len(parts), max(len(text.blocks) for text, _ in parts)), -1, np.int32)
    for i, (text, n_tokens) in enumerate(parts):
        rows += [len(tokens) + row for row in text.wanted(n_tokens)]
        first = text.n_computed
        tokens += text.ids[first : first + n_tokens]
        positions += range(first, first + n_tokens)
        sequence += [i] * n_tokens
        tables[i, : len(text.blocks)] = text.blocks
    int32 = functools.partial(np.array, dtype=np.int32)
    return Batch(int32(tokens), int32(positions), int32(sequence), tables, int32(rows))
