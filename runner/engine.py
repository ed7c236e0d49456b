"""What runs everything: the chat loop, one-shot runs and the Python API all drive an engine."""

import functools
import os
import time
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np

from llmrun.quant_formats.errors import ContextTooLong, LlmrunError, PromptTooLong, UsageError
from llmrun.runner.batch import Batch
from llmrun.runner.block_table import BlockTable
from llmrun.runner.chat_template import ChatTemplate
from llmrun.runner.embedding import Embedder
from llmrun.runner.generation import Generation
from llmrun.runner.kv_cache import BLOCK_TOKENS, KVCache, blocks_for
from llmrun.runner.model import BlockContents, Model
from llmrun.runner.sampler import SamplingParams, log_probabilities
from llmrun.runner.scheduler import TOKENS_PER_STEP, Chunk, Scheduler
from llmrun.runner.sequence import Sequence
from llmrun.runner.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llmrun.cpu_kernels.kv_types import KVType
    from llmrun.runner.chat import Chat
    from llmrun.runner.config import ModelConfig
    from llmrun.runner.constraint import Constraint
    from llmrun.runner.grammar_compiler import GrammarCompiler

DEFAULT_CONTEXT = 4096  # tokens; a model that knows more gets more on request, because the memory is reserved at once
RESTORING_THREADS = 3  # one waits for the disk or the system while the others copy


class Engine:
    """A model, its tokenizer and its KV cache, shared by any number of generations and chats.

        with Engine.load("smollm2") as engine:
            for piece in engine.generate("The sky is", SamplingParams(max_tokens=20)):
                print(piece.text, end="", flush=True)

    An engine belongs to one thread. It only works while somebody reads one of its generations.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        chat_template: ChatTemplate | None = None,
        n_ctx: int | None = None,
        n_parallel: int = 1,
        tokens_per_step: int = TOKENS_PER_STEP,
    ) -> None:
        """Reserve the KV cache; see `load` for the parameters and errors."""
        self.model = model
        self.tokenizer = tokenizer
        self.chat_template = chat_template
        self.n_ctx = context_size(n_ctx, model.config.n_ctx_train)
        n_blocks = n_parallel * (blocks_for(self.n_ctx) + most_residuals(model.residual_blocks, tokens_per_step))
        self.kv_cache = KVCache(n_blocks, model.copy_kv, model.residual_blocks, tokens_per_step)
        """For looking at, and for `retain` and `release` between two steps."""
        self._scheduler = Scheduler(self.kv_cache, tokens_per_step)
        self._is_busy = False
        model.allocate_kv(self.kv_cache.n_blocks)

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str],
        n_ctx: int | None = None,
        n_threads: int | None = None,
        progress: Callable[[str, float, float], None] | None = None,
        isa: str | None = None,
        n_parallel: int = 1,
        kv_type: str | None = None,
    ) -> Self:
        """Load a model by the path of its GGUF file or by its name in `models.toml`.

        n_ctx: most tokens of a prompt with its answer; by default what the model was trained on, at most 4,096.
        n_threads: by default the processors that this process may use.
        progress: called with what is being done, how much of it is done, and how much there is.
        isa: forces an instruction set; by default the best that this processor has.
        n_parallel: full contexts that the cache has room for; shorter sequences share them freely.
        kv_type: how keys and values are stored: "f16" (the default), or in less memory, "q8_0" (0.53 of it),
            or "q4_0" (0.28, and seven blocks more for each of n_parallel).

        Raises ModelFileError or UnsupportedModel for the file, ContextTooLong if n_ctx is more than the model was
        trained on, UsageError for a type of keys and values that does not exist or does not suit the model, OutOfMemory
        before anything is allocated.
        """
        from llmrun.quant_formats.gguf_file import GGUFFile
        from llmrun.runner.architecture import architecture
        from llmrun.runner.config import ModelConfig
        from llmrun.runner.kv_type import kv_type_named
        from llmrun.runner.loader import load_model
        from llmrun.runner.memory import check_memory
        from llmrun.runner.registry import resolve

        path = resolve(model, progress)
        with GGUFFile.open(path) as gguf:
            architecture(gguf.architecture, str(path))  # the first thing to know about a file that cannot be run
            config = ModelConfig.from_gguf(gguf)
            n_ctx = context_size(n_ctx, config.n_ctx_train)
            weight_bytes = sum(tensor.n_bytes for tensor in gguf.tensors.values())
            check_memory(weight_bytes, kv_bytes(config, kv_type_named(kv_type, config), n_ctx, n_parallel))
            tokenizer = Tokenizer.from_gguf(gguf.metadata)
            template = ChatTemplate.from_gguf(gguf.metadata)
            loaded = load_model(gguf, n_threads, progress, isa, kv_type)
        try:
            return cls(loaded, tokenizer, template, n_ctx, n_parallel)
        except BaseException:
            loaded.close()
            raise

    def tokenize(self, text: str) -> list[int]:
        """Ids of a prompt: special tokens written in it become their ids, and BOS comes first where the model wants it.

        A prompt that begins with BOS already, as those of many chat templates do, gets no second one. There is never an
        EOS at the end, because the text is to go on.
        """
        ids = self.tokenizer.encode(text, add_special=False)
        bos = self.tokenizer.bos_id
        if not self.tokenizer.adds_bos or bos is None or ids[:1] == [bos]:
            return ids
        return [bos, *ids]

    def generate(self, prompt: str | SequenceOf[int], params: SamplingParams | None = None) -> Generation:
        """Continue a text or ids as they are, without a chat template.

        Raises PromptTooLong if the prompt leaves no room for an answer, UsageError if it is empty.
        """
        ids = self.tokenize(prompt) if isinstance(prompt, str) else prompt
        return self.submit(ids, params or SamplingParams())

    def chat(self, system: str | None = None, params: SamplingParams | None = None, raw: bool = False) -> "Chat":
        """Begin a conversation; `raw` goes without the model's chat template."""
        from llmrun.runner.chat import Chat

        return Chat(self, system, params or SamplingParams(), raw)

    def submit(
        self,
        prompt: SequenceOf[int],
        params: SamplingParams,
        table: BlockTable | None = None,
        *,
        constraint: "Constraint | None" = None,
        n_ctx: int | None = None,
        client: str = "",
        priority: int = 0,
    ) -> Generation:
        """Queue a request.

        What is known of the prompt, from any request before, is not computed again. A block table that is passed in
        belongs to the caller, and keeps what is computed for a next turn, down to the last token; without one, full
        blocks are kept. No other request may be using the table.

        constraint: what the answer may be. n_ctx: a limit on this prompt with its answer below the engine's. client,
        priority: see `Scheduler`.

        Raises PromptTooLong or UsageError, before anything is queued.
        """
        sequence = self.new_sequence(prompt, params, table, constraint, n_ctx, client, priority)
        self._scheduler.add(sequence)
        return Generation(self, sequence)

    def new_sequence(
        self,
        prompt: SequenceOf[int],
        params: SamplingParams,
        table: BlockTable | None = None,
        constraint: "Constraint | None" = None,
        n_ctx: int | None = None,
        client: str = "",
        priority: int = 0,
    ) -> Sequence:
        """Check a request; see `submit`. May be called on any thread, what comes of it may not."""
        self.check_request(prompt, params, n_ctx)
        n_ctx = min(n_ctx or self.n_ctx, self.n_ctx)
        table, keeps_table = table or self.new_table(), table is not None
        return Sequence(
            prompt, params, self.tokenizer, n_ctx, table, keeps_table, constraint, client=client, priority=priority
        )

    def rebase(self, sequence: Sequence, prompt: SequenceOf[int]) -> None:
        """Go on with an answer in progress after another prompt, which leaves it room: a chat that drops old turns.

        What the cache holds of the new prompt and the answer is used.
        """
        assert len(prompt) + len(sequence.answer) < self.n_ctx
        sequence.rebase(prompt)
        self._scheduler.restart(sequence)

    def new_table(self) -> BlockTable:
        """Make a block table that holds nothing yet, for `submit`."""
        return BlockTable(self.kv_cache)

    def restore(
        self,
        table: BlockTable,
        tokens: SequenceOf[int],
        read: Callable[[int], BlockContents],
        read_residual: Callable[[int], BlockContents] | None = None,
    ) -> int:
        """Fill an empty table with keys and values that were read from a model of the same fingerprint.

        `read(i)` returns the contents, as `Model.read_kv` gave them, of block i of those that hold `tokens`; the last
        may be partial. It is called on several threads, for what the prefix tree does not have, and raises LookupError
        where it has nothing: then the table holds what comes before. `read_residual(i)` does the same for the residuals
        of block i, of a model that keeps them; what follows the last that it has nothing of is given up. Returns how
        many of the ids the table holds.
        """
        assert not table.blocks, "the table holds something else"
        assert not self._is_busy, "in the middle of a step"
        n_known = table.reuse(tokens)
        if n_known < len(tokens):
            table.truncate(n_known // BLOCK_TOKENS * BLOCK_TOKENS)  # a part of a block gives way to the whole
            self._fill(table, tokens, read)
            if read_residual is not None:
                self._fill_residuals(table, read_residual)
        self.kv_cache.park(table)
        return len(table.tokens)

    def _fill(self, table: BlockTable, tokens: SequenceOf[int], read: Callable[[int], BlockContents]) -> None:
        """Read what is missing of `tokens`, for as long as there is room and something to read."""
        first, end = len(table.blocks), len(tokens)
        while not table.reserve(end, computes=False):
            end = (blocks_for(end) - 1) * BLOCK_TOKENS

        def fill(i: int) -> bool:
            try:
                contents = read(i)
            except LookupError:
                return False
            self.model.write_kv(table.blocks[i], contents)
            return True

        with ThreadPoolExecutor(RESTORING_THREADS) as pool:
            filling = [pool.submit(fill, i) for i in range(first, blocks_for(end))]
            try:
                for i, filled in enumerate(filling, first):
                    if not filled.result():
                        break
                    table.extend(tokens[i * BLOCK_TOKENS : min((i + 1) * BLOCK_TOKENS, end)])
            finally:
                pool.shutdown(cancel_futures=True)

    def _fill_residuals(self, table: BlockTable, read: Callable[[int], BlockContents]) -> None:
        """Read what the table needs to go on, for as long as there is room and something to read."""
        for i in table.lacking_residuals():
            if not self.kv_cache.n_available:
                return
            block = self.kv_cache.allocate()
            try:
                self.model.write_kv(block, read(i))
            except LookupError:
                self.kv_cache.release(block)
                return
            table.give_residual(i, block)

    def embed(
        self, texts: SequenceOf[SequenceOf[int]], pooling: str | None = None, normalize: bool = True
    ) -> np.ndarray:
        """Vectors (n_texts, n_embd) float32 of texts given as ids; see `Embedder.submit` for parameters and errors.

        `tokenizer.encode(text)` gives the ids that a model for embeddings was trained on. Running answers lose nothing
        to it, and wait meanwhile; with `embedder`, steps of both can take turns.
        """
        request = self.embedder.submit(texts, pooling, normalize)
        while not request.is_done:
            self.embedder.step()
        return request.vectors()

    @functools.cached_property
    def embedder(self) -> Embedder:
        """Turns texts into vectors, a batch a step."""
        return Embedder(self.model, self.n_ctx)

    @functools.cached_property
    def grammar_compiler(self) -> "GrammarCompiler":
        """Makes constraints for `submit`; the first use takes 0.2 s, or 1 s with a vocabulary of 262,144."""
        from llmrun.runner.grammar_compiler import GrammarCompiler

        return GrammarCompiler(self.tokenizer, self.model.config.n_vocab)

    @functools.cached_property
    def fingerprint(self) -> str:
        """What keys and values depend on besides the ids, as a SHA-256 in hexadecimal digits.

        Those of an engine with the same fingerprint can be written into this one.
        """
        return self.model.fingerprint()

    def release(self, table: BlockTable) -> None:
        """Release what a block table holds; no request may be using it."""
        table.release()

    def step(self) -> None:
        """Compute a token of every sequence that decodes, and a chunk of the prompts."""
        self.drop_ended()
        self._is_busy = True
        try:
            started = time.perf_counter()
            chunks = self._scheduler.schedule()
            if chunks:
                n_decoding = sum(chunk.sequence.is_decoding for chunk in chunks)
                n_prompt = sum(chunk.n_tokens for chunk in chunks if not chunk.sequence.is_decoding)
                logits = self.model.forward(batch_of(chunks))
                self._postprocess(chunks, logits)
                self._scheduler.pace.note(n_decoding, n_prompt, time.perf_counter() - started)
        finally:
            self._is_busy = False
        self.drop_ended()

    @property
    def has_work(self) -> bool:
        """Whether any request is not finished."""
        return self._scheduler.n_running + self._scheduler.n_waiting > 0

    @property
    def n_running(self) -> int:
        """How many requests are being computed."""
        return self._scheduler.n_running

    @property
    def n_waiting(self) -> int:
        """How many requests wait for room in the cache."""
        return self._scheduler.n_waiting

    def add(self, sequence: Sequence) -> None:
        """Queue what `new_sequence` made."""
        self._scheduler.add(sequence)

    def drop_ended(self) -> None:
        """Take out the sequences that ended or were cancelled; in the middle of a step, leave it to the step's end."""
        if self._is_busy:
            return
        self._is_busy = True
        try:
            for sequence in self._scheduler.sequences:
                if sequence.finish_reason is not None or sequence.cancel_asked:
                    self._scheduler.finish(sequence, sequence.finish_reason or "cancelled")
        finally:
            self._is_busy = False

    def close(self) -> None:
        """End what is still running and give everything back; the engine cannot be used afterwards."""
        for sequence in self._scheduler.sequences:
            sequence.cancel_asked = True
        self.drop_ended()
        self.kv_cache.clear()
        self.model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _postprocess(self, chunks: list[Chunk], logits: np.ndarray) -> None:
        """Record what was computed, and choose the next id of each sequence that has no token pending.

        logits is (n_logit_rows, n_vocab). If Ctrl-C comes in between, what is not recorded is computed again.
        """
        row = 0
        for chunk in chunks:
            sequence = chunk.sequence
            computed = sequence.tokens[sequence.n_computed :][: chunk.n_tokens]
            if chunk.n_tokens == sequence.n_pending:
                try:
                    self._choose(sequence, logits[row])
                except LlmrunError as error:  # of this request only
                    sequence.error, sequence.finish_reason = error, "error"
                row += 1
            sequence.table.extend(computed)

    @staticmethod
    def _choose(sequence: Sequence, logits: np.ndarray) -> None:
        """Choose the next id of a sequence from `logits` (n_vocab,)."""
        mask = sequence.constraint.mask() if sequence.constraint is not None else None
        allowed = logits if mask is None else np.where(mask, logits, np.float32(-np.inf))
        token = sequence.sampler.sample(allowed, sequence.tokens)
        n_top = sequence.params.logprobs
        sequence.append(token, None if n_top is None else log_probabilities(logits, token, n_top))

    def check_request(self, prompt: SequenceOf[int], params: SamplingParams, n_ctx: int | None = None) -> None:
        """Raise what `submit` would raise. May be called on any thread."""
        n_ctx = min(n_ctx or self.n_ctx, self.n_ctx)
        n_vocab = self.model.config.n_vocab
        if not self.model.config.is_causal:
            raise UsageError(f"{self.model.config.name} turns texts into vectors and writes none; ask for embeddings")
        if len(prompt) == 0:
            raise UsageError("the prompt is empty; give at least one word")
        if len(prompt) >= n_ctx:
            raise PromptTooLong(
                f"the prompt has {len(prompt)} tokens and leaves no room for an answer in a context of {n_ctx}; "
                f"shorten it or use a larger context (the model was trained on {self.model.config.n_ctx_train})",
                n_prompt=len(prompt),
                n_ctx=n_ctx,
            )
        if not all(0 <= token < n_vocab for token in prompt):
            raise UsageError(f"the prompt has ids outside of the vocabulary of {n_vocab}")
        if any(token >= n_vocab for token in params.logit_bias):
            raise UsageError(f"logit_bias names ids outside of the vocabulary of {n_vocab}")


def most_residuals(residual_blocks: int, tokens_per_step: int = TOKENS_PER_STEP) -> int:
    """Blocks that the residuals of a sequence take: of its first block, and of a run and the step that leaves it."""
    return 1 + residual_blocks + blocks_for(tokens_per_step) if residual_blocks else 0


def kv_bytes(config: "ModelConfig", kv: "KVType", n_ctx: int, n_parallel: int) -> int:
    """Bytes of the KV cache of an engine."""
    n_tokens = n_ctx + BLOCK_TOKENS * most_residuals(kv.residual_blocks)
    return n_parallel * n_tokens * config.kv_bytes_per_token(kv)


def context_size(n_ctx: int | None, n_ctx_train: int) -> int:
    """Tokens of context: what is asked for, checked, or the default."""
    if n_ctx is None:
        return min(n_ctx_train, DEFAULT_CONTEXT)
    if n_ctx < 2:
        raise UsageError(f"a context of {n_ctx} tokens holds no prompt with an answer; ask for 2 or more")
    if n_ctx > n_ctx_train:
        raise ContextTooLong(
            f"a context of {n_ctx} tokens is more than the {n_ctx_train} that the model was trained on; ask for less"
        )
    return n_ctx


def batch_of(chunks: SequenceOf[Chunk]) -> Batch:
    """Lay the chunks of a step out as arrays, with logits for the last token of each sequence that gets that far."""
    tokens: list[int] = []
    positions: list[int] = []
    rows: list[int] = []
    logit_rows: list[int] = []
    tables = np.full((len(chunks), max(len(chunk.sequence.table.blocks) for chunk in chunks)), -1, np.int32)
    residuals = tables.copy()
    for row, chunk in enumerate(chunks):
        sequence, n = chunk.sequence, chunk.n_tokens
        first = sequence.n_computed
        tokens += sequence.tokens[first : first + n]
        positions += range(first, first + n)
        rows += [row] * n
        tables[row, : len(sequence.table.blocks)] = sequence.table.blocks
        for i, block in sequence.table.residuals.items():
            residuals[row, i] = block
        if n == sequence.n_pending:
            logit_rows.append(len(tokens) - 1)
    int32 = functools.partial(np.array, dtype=np.int32)
    return Batch(int32(tokens), int32(positions), int32(rows), tables, int32(logit_rows), residuals)
