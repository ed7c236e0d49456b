"""Decides what the next step computes."""

from dataclasses import dataclass

from llmrun.runner.fair_share import FairShare
from llmrun.runner.kv_cache import KVCache
from llmrun.runner.pace import Pace
from llmrun.runner.sequence import FinishReason, Sequence

TOKENS_PER_STEP = 128  # as fast for a prompt as 512, with a quarter of the memory for activations
MAX_SEQUENCES = 64  # in flight; each has a row of logits, 1 MB for a vocabulary of 262,144
PATIENCE = 4  # of so many tokens computed while a prompt waits, one counts as its own


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next `n_tokens` pending tokens of a sequence."""

    sequence: Sequence
    n_tokens: int


class Scheduler:
    """Continuous batching: sequences join and leave between any two steps, and a long prompt is computed in chunks.

    Every step carries all running answers on, and takes as much of the prompts as leaves these their pace. Of prompts,
    those of a higher priority go first, then those of the client that has had least, then the shortest; but a long one
    gains on the others while it waits. When the cache is full the youngest sequence of the lowest priority gives its
    blocks back and is computed again later, for as much as the prefix tree has lost of it by then, which changes its
    speed but not its text. The oldest always keeps its blocks, so that all of them end.
    """

    def __init__(self, kv_cache: KVCache, tokens_per_step: int = TOKENS_PER_STEP) -> None:
        self.pace = Pace(tokens_per_step)
        self._kv_cache = kv_cache
        self._tokens_per_step = tokens_per_step
        self._shares = FairShare()
        self._waiting: list[Sequence] = []  # in the order of their arrival
        self._running: list[Sequence] = []  # the one that gives way last is the first
        self._arrival: dict[Sequence, tuple[int, int]] = {}  # tokens computed, and sequences queued, before each came
        self._n_computed = self._n_queued = 0

    @property
    def sequences(self) -> list[Sequence]:
        """All sequences that are not finished; those that run first."""
        return [*self._running, *self._waiting]

    @property
    def n_running(self) -> int:
        """How many sequences have their blocks."""
        return len(self._running)

    @property
    def n_waiting(self) -> int:
        """How many sequences wait for blocks."""
        return len(self._waiting)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence."""
        self._shares.join(sequence.client)
        self._arrival[sequence] = self._n_computed, self._n_queued
        self._n_queued += 1
        self._waiting.append(sequence)

    def schedule(self) -> list[Chunk]:
        """Plan a step and reserve its blocks.

        Returns no chunk only if there is no sequence.
        """
        self._admit()
        for sequence in self._running:
            sequence.catch_up()
        planned: dict[Sequence, int] = {}
        self._plan([s for s in self._running if s.is_decoding], planned, self._tokens_per_step)
        prompts = sorted((s for s in self._running if not s.is_decoding), key=self._urgency)
        n_decoding = sum(planned.values())
        self._plan(prompts, planned, min(self._tokens_per_step - n_decoding, self.pace.limit(len(planned))))
        for sequence, n_tokens in planned.items():
            self._shares.charge(sequence.client, n_tokens, sequence.is_decoding)
            self._n_computed += n_tokens
        return [Chunk(sequence, n_tokens) for sequence, n_tokens in planned.items()]

    def restart(self, sequence: Sequence) -> None:
        """Plan a sequence anew whose tokens have changed, before all that wait."""
        if sequence in self._running:
            self._running.remove(sequence)
            self._kv_cache.park(sequence.table)
            self._waiting.insert(0, sequence)

    def finish(self, sequence: Sequence, reason: FinishReason) -> None:
        """Take a sequence out, and release its blocks or leave them to its next turn."""
        sequence.finish_reason = reason
        if sequence in self._running:
            self._running.remove(sequence)
        else:
            self._waiting.remove(sequence)
        del self._arrival[sequence]
        self._shares.leave(sequence.client)
        self._let_go(sequence)

    def _plan(self, sequences: list[Sequence], planned: dict[Sequence, int], budget: int) -> None:
        """Plan what fits into a budget of tokens, in this order."""
        for sequence in sequences:
            if budget <= 0:
                return
            # an earlier one may have taken its blocks
            if sequence in self._running and self._make_room(sequence, planned):
                planned[sequence] = min(sequence.n_pending, budget)
                budget -= planned[sequence]

    def _urgency(self, sequence: Sequence) -> tuple[int, int, int, int]:
        """What to sort prompts by; the smallest goes first."""
        n_before, serial = self._arrival[sequence]
        n_left = sequence.n_pending - (self._n_computed - n_before) // PATIENCE
        return -sequence.priority, self._shares.served(sequence.client), n_left, serial

    def _admit(self) -> None:
        """Let waiting sequences in, as long as there are blocks for all they have to compute now."""
        while self._waiting and len(self._running) < MAX_SEQUENCES:
            # those that have begun and gave way come back first
            sequence = min(self._waiting, key=lambda s: (-s.priority, s.stats.n_generated == 0, *self._urgency(s)[1:]))
            self._kv_cache.unpark(sequence.table)
            sequence.start()
            while not self._reserve_first(sequence):
                if not self._running or self._running[-1].priority >= sequence.priority:
                    self._let_go(sequence)
                    return
                self._preempt()
            self._waiting.remove(sequence)
            self._running.append(sequence)
            self._running.sort(key=lambda s: (-s.priority, self._arrival[s]))

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
            preempted = self._preempt()
            planned.pop(preempted, None)
            if preempted is sequence:
                return False
        return True

    def _preempt(self) -> Sequence:
        """Take the blocks of the last of the running sequences, which waits from now on."""
        sequence = self._running.pop()
        sequence.table.release()
        self._waiting.insert(0, sequence)
        return sequence

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
