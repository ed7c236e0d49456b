"""All state of one request."""

import time
from collections import deque
from collections.abc import Sequence as SequenceOf
from typing import TYPE_CHECKING, Literal

from llmrun.quant_formats.errors import LlmrunError
from llmrun.runner.block_table import BlockTable
from llmrun.runner.piece import Piece, TokenLogprobs
from llmrun.runner.sampler import Sampler, SamplingParams
from llmrun.runner.stats import Stats
from llmrun.runner.stop_strings import StopStrings
from llmrun.runner.stream_decoder import StreamDecoder
from llmrun.runner.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llmrun.runner.constraint import Constraint

FinishReason = Literal["stop", "length", "context", "cancelled", "error"]

MOST_FORCED = 32  # ids that a grammar forces at once; a step takes them like the one of any other answer


class Sequence:
    """The ids of a prompt and its answer, how far they are computed, and the text that came of them.

    `tokens` grows by one id a step. Of these the block table holds the first `n_computed`; the others are pending: the
    prompt at first, then the id chosen last. Reasons to finish: "stop" (an id that ends an answer, or a stop string),
    "length" (`max_tokens`), "context" (`n_ctx` ids), "cancelled", "error" (see `error`).
    """

    def __init__(
        self,
        prompt: SequenceOf[int],
        params: SamplingParams,
        tokenizer: Tokenizer,
        n_ctx: int,
        table: BlockTable,
        keeps_table: bool = False,
        constraint: "Constraint | None" = None,
        client: str = "",
        priority: int = 0,
    ) -> None:
        assert 0 < len(prompt) < n_ctx, "a prompt that is empty or leaves no room for an answer"
        self.tokens = list(prompt)
        self.n_prompt = len(prompt)
        self.n_ctx = n_ctx
        self.params = params
        self.sampler = Sampler(params)
        self.table = table
        self.keeps_table = keeps_table  # whether the keys and values outlive the request, for a next turn
        self.constraint = constraint  # what the answer may be; None is anything
        self.client = client  # those of one client share what it gets
        self.priority = priority  # of two that wait, the one with more goes first
        self.pieces: deque[Piece] = deque()  # not yet taken by the reader
        self.text = ""  # of all pieces so far
        self.finish_reason: FinishReason | None = None
        self.error: LlmrunError | None = None
        self.cancel_asked = False
        self.stats = Stats(n_prompt=self.n_prompt)
        self._t_submitted = time.perf_counter()
        self._t_started: float | None = None
        self._t_first = 0.0
        self._stop_ids = tokenizer.stop_ids | params.stop_ids
        self._decoder = StreamDecoder(tokenizer)
        self._stop_strings = StopStrings(params.stop)

    @property
    def n_computed(self) -> int:
        """Number of ids whose keys and values are in the cache."""
        return len(self.table.tokens)

    @property
    def n_pending(self) -> int:
        """Number of ids still to compute before the next one can be chosen."""
        return len(self.tokens) - self.n_computed

    @property
    def is_decoding(self) -> bool:
        """Whether the answer has begun and only the ids chosen last are pending: one, or some that a grammar forced."""
        return self.stats.n_generated > 0 and self.n_pending <= MOST_FORCED

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended the answer."""
        return self._stop_strings.found

    @property
    def answer(self) -> list[int]:
        """The ids chosen so far."""
        return self.tokens[self.n_prompt :]

    def rebase(self, prompt: SequenceOf[int]) -> None:
        """Put another prompt before the answer so far."""
        self.tokens = [*prompt, *self.answer]
        self.n_prompt = len(prompt)

    def start(self) -> None:
        """Begin to compute: what the block table or the prefix tree has of the prompt is used.

        The last id is always computed, because its logits are needed.
        """
        if self._t_started is None:
            self._t_started = time.perf_counter()
        self.table.reuse(self.tokens[:-1])
        self._count_cached(self.n_computed)

    def catch_up(self) -> None:
        """Use what other sequences have computed of the prompt since this one began."""
        if self.n_pending > 1:
            n_gained = self.table.catch_up(self.tokens[:-1])
            self._count_cached(self.stats.n_cached + n_gained)

    def forget_shared_part(self) -> None:
        """Compute again what is known of a block that there is no room to copy."""
        self.table.forget_shared_part()
        self._count_cached(self.n_computed)

    def append(self, token: int, logprobs: TokenLogprobs | None = None) -> None:
        """Take the id chosen last, and those that a constraint forces after it."""
        self._append(token, logprobs)
        if self.constraint is None or self.finish_reason is not None:
            return
        self.constraint.accept(token)
        if self.params.logprobs is None:  # else each id needs logits of its own
            for forced in self.constraint.forced()[:MOST_FORCED]:
                self._append(forced, None)
                if self.finish_reason is not None:
                    return
                self.constraint.accept(forced)
        if self.constraint.is_done:  # only an id that ends the answer could come now
            last = self.pieces.pop()
            self.text = self.text[: len(self.text) - len(last.text)]
            self._finish("stop", last.id, last.text, last.logprobs)

    def _append(self, token: int, logprobs: TokenLogprobs | None) -> None:
        """Take an id: its text, and whether it ends the answer."""
        self.tokens.append(token)
        self._count()
        if token in self._stop_ids:
            self._finish("stop", token, "", logprobs)
            return
        text = self._stop_strings.push(self._decoder.push(token))
        if self._stop_strings.found is not None:
            self.finish_reason = "stop"
            self._emit(token, text, logprobs)
        elif self.stats.n_generated == self.params.max_tokens:
            self._finish("length", token, text, logprobs)
        elif len(self.tokens) == self.n_ctx:
            self._finish("context", token, text, logprobs)
        else:
            self._emit(token, text, logprobs)

    def _finish(self, reason: FinishReason, token: int, text: str, logprobs: TokenLogprobs | None) -> None:
        """End the text here; what was held back comes out, unless it completes a stop string now."""
        text += self._stop_strings.push(self._decoder.flush()) + self._stop_strings.flush()
        self.finish_reason = "stop" if self._stop_strings.found is not None else reason
        self._emit(token, text, logprobs)

    def _emit(self, token: int, text: str, logprobs: TokenLogprobs | None) -> None:
        self.text += text
        self.pieces.append(Piece(token, text, logprobs))

    def _count_cached(self, n_cached: int) -> None:
        if self.stats.n_generated == 0:  # later it is the sequence's own work that it finds again
            self.stats.n_cached = n_cached

    def _count(self) -> None:
        now = time.perf_counter()
        stats = self.stats
        stats.n_generated += 1
        if stats.n_generated == 1:
            assert self._t_started is not None
            self._t_first = now
            stats.t_first_token = now - self._t_submitted
            stats.t_prefill = now - self._t_started
        stats.t_decode = now - self._t_first
