"""Decides what the next step computes."""

from collections import deque
from dataclasses import dataclass

from llmrun.runner.kv_cache import KVCache
from llmrun.runner.sequence import FinishReason, Sequence

TOKENS_PER_STEP = 512  # enough for full speed in prefill, few enough that decoding sequences do not wait long
MAX_SEQUENCES = 64  # in flight; each has a row of logits, 1 MB for a vocabulary of 262,144


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next `n_tokens` pending tokens of a sequence."""

    sequence: Sequence
    n_tokens: int


class Scheduler:
    """Continuous batching: sequences join and leave between any two steps, and a long prompt is computed in chunks.

    First come, first served. When the cache is full the youngest sequence gives its blocks back and is computed again
    later, for as much as the prefix tree has lost of it by then, which changes its speed but not its text. The oldest
    always goes on, so that all of them end.
    """

    def __init__(self, kv_cache: KVCache, tokens_per_step: int = TOKENS_PER_STEP) -> None:
        self._kv_cache = kv_cache
        self._tokens_per_step = tokens_per_step
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []  # oldest first

    @property
    def sequences(self) -> list[Sequence]:
        """All sequences that are not finished, oldest first."""
        return [*self._running, *self._waiting]

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence."""
        self._waiting.append(sequence)

    def schedule(self) -> list[Chunk]:
        """Plan a step and reserve its blocks: decoding sequences first, prompts with what is left of the budget.

        Returns no chunk only if there is no sequence.
        """
        self._admit()
        planned: dict[Sequence, int] = {}
        budget = self._tokens_per_step
        for sequence in sorted(self._running, key=lambda s: s.n_pending > 1):
            if budget == 0:
                break
            if sequence not in self._running:  # an earlier one in this loop took its blocks
                continue
            sequence.catch_up()
            if self._make_room(sequence, planned):
                planned[sequence] = min(sequence.n_pending, budget)
                budget -= planned[sequence]
        return [Chunk(sequence, n_tokens) for sequence, n_tokens in planned.items()]

    def finish(self, sequence: Sequence, reason: FinishReason) -> None:
        """Take a sequence out, and release its blocks or leave them to its next turn."""
        sequence.finish_reason = reason
        if sequence in self._running:
            self._running.remove(sequence)
        else:
            self._waiting.remove(sequence)
        self._let_go(sequence)

    def _admit(self) -> None:
        """Let waiting sequences in, as long as there are blocks for all they have to compute now."""
        while self._waiting and len(self._running) < MAX_SEQUENCES:
            sequence = self._waiting[0]
            self._kv_cache.unpark(sequence.table)
            sequence.start()
            if not self._reserve_first(sequence):
                self._let_go(sequence)
                return
            self._running.append(self._waiting.popleft())

    def _reserve_first(self, sequence: Sequence) -> bool:
        """Reserve blocks for a sequence that is about to run, without the copy of a known block if that is too much."""
        n_tokens = len(sequence.tokens)
        if sequence.table.reserve(n_tokens):
            return True
        sequence.forget_shared_part()
        return sequence.table.reserve(n_tokens) or (not self._running and self._reserve_alone(sequence))

    def _make_room(self, sequence: Sequence, planned: dict[Sequence, int]) -> bool:
        """Reserve blocks for all tokens of a sequence; False if it had to give up its own."""
        while not sequence.table.reserve(len(sequence.tokens)):
            if len(self._running) == 1:
                return self._reserve_alone(sequence)
            youngest = self._running.pop()
            youngest.table.release()
            planned.pop(youngest, None)
            self._waiting.appendleft(youngest)
            if youngest is sequence:
                return False
        return True

    def _reserve_alone(self, sequence: Sequence) -> bool:
        """Reserve blocks for the one sequence that runs: all there are, but for those that others have retained."""
        for release_some in self._kv_cache.on_shortage:
            release_some()
        reserved = sequence.table.reserve(len(sequence.tokens))
        assert reserved, "one sequence alone always fits"
        return True

    def _let_go(self, sequence: Sequence) -> None:
        """Let others have the blocks of a sequence that does not run."""
        if sequence.keeps_table:
            self._kv_cache.park(sequence.table)
        else:
            sequence.table.release()
