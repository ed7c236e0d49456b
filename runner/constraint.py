"""Keeps one answer to a grammar."""

from typing import TYPE_CHECKING

import numpy as np

from llmrun.quant_formats.errors import UsageError

if TYPE_CHECKING:
    from llguidance import LLMatcher


class Constraint:
    """Where one answer is in its grammar: which ids may come next, and which must.

        while not constraint.is_done:
            for token in constraint.forced():
                constraint.accept(token)        # needs no look at the logits
            token = sample(logits, constraint.mask())
            constraint.accept(token)

    It belongs to one thread at a time, like the engine.
    """

    def __init__(self, matcher: "LLMatcher", n_tokens: int, n_vocab: int, stop_ids: frozenset[int]) -> None:
        self._matcher = matcher
        self._n_tokens = n_tokens  # that the tokenizer knows; a model may have more, which mean nothing
        self._n_vocab = n_vocab
        self._stop_ids = stop_ids
        self._stop_array = np.array(sorted(stop_ids), np.intp)
        self._has_ended = False
        self._mask: np.ndarray | None = None  # of the current state, once it is known

    @property
    def is_done(self) -> bool:
        """Whether nothing may follow but an id that ends the answer."""
        return self._has_ended or (self._matcher.is_stopped() and not self._matcher.is_error())

    @property
    def may_end(self) -> bool:
        """Whether the answer so far is complete."""
        return self._has_ended or bool(self._matcher.is_accepting())

    def mask(self) -> np.ndarray:
        """Which ids may come next: (n_vocab,) bool, at least one of them True; not to be changed.

        Where the answer may end, the stop ids are among them; where it must, nothing else is. Raises UsageError if the
        grammar turns out too complex, or asks for a text that the model has no tokens for.
        """
        if self._mask is None:
            self._mask = self._compute_mask()
        return self._mask

    def forced(self) -> list[int]:
        """The ids that must come now, the same as the tokenizer would give; [] where there is a choice or an end.

        `accept` them one by one.
        """
        if self.is_done:
            return []
        return [int(token) for token in self._matcher.compute_ff_tokens()]

    def accept(self, token: int) -> None:
        """Take the next id, one that `mask` allows or the next of `forced`."""
        self._mask = None
        if token in self._stop_ids and self.may_end:
            self._has_ended = True
            return
        taken = not self._has_ended and self._matcher.consume_token(token)
        self._raise_if_too_complex()
        assert taken, f"the grammar does not allow {token} here"
        self._has_ended = token in self._stop_ids

    def _compute_mask(self) -> np.ndarray:
        mask = np.zeros(self._n_vocab, np.bool_)
        if not self.is_done:
            bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
            if self._matcher.is_error():
                self._raise_if_too_complex()
                raise UsageError("the grammar cannot be met: the model has no token for what must come next")
            mask[: self._n_tokens] = np.unpackbits(bits, count=self._n_tokens, bitorder="little")
        mask[self._stop_array] |= self.may_end
        return mask

    def _raise_if_too_complex(self) -> None:
        if self._matcher.stop_reason() in ("ParserTooComplex", "LexerTooComplex"):
            raise UsageError("the grammar is too complex for this text; make it simpler")
