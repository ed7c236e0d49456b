"""Walks through a grammar at random, without a model."""

import random
from typing import Protocol

import numpy as np

from llmrun.runner.constraint import Constraint

WAY_OUT = ("}", "]", '"', "null", ",", ":")  # what leads to the end of a JSON text, the shortest way first


class Vocabulary(Protocol):
    @property
    def stop_ids(self) -> frozenset[int]: ...
    @property
    def vocabulary_bytes(self) -> list[bytes]: ...


class WildSampler:
    """Draws from what may come, evenly or from what people write; after `soft` ids it mostly looks for the way out."""

    def __init__(self, tokenizer: Vocabulary, soft: int = 60, most: int = 4000) -> None:
        self.spelt = tokenizer.vocabulary_bytes
        self.stop_ids = sorted(tokenizer.stop_ids)
        self.soft, self.most = soft, most
        self.way_out = [self.spelt.index(text.encode()) for text in WAY_OUT if text.encode() in self.spelt]
        self.short = np.array([i for i, piece in enumerate(self.spelt) if len(piece) == 1 and piece.isascii()])
        self.usual = np.array([i for i, piece in enumerate(self.spelt) if piece.isascii() and piece.strip().isalnum()])

    def text(self, constraint: Constraint, seed: int) -> tuple[bytes, bool]:
        """What was said, and whether it came to its end."""
        rng = random.Random(seed)
        ids: list[int] = []
        while len(ids) < self.most:
            new = constraint.forced() or [self._draw(constraint.mask(), rng, len(ids) > self.soft)]
            for token in new:
                constraint.accept(token)
            if new[0] in self.stop_ids:
                return b"".join(self.spelt[token] for token in ids), True
            ids += new
        return b"".join(self.spelt[token] for token in ids), False

    def _draw(self, mask: np.ndarray, rng: random.Random, is_long: bool) -> int:
        """An id of those in mask (n_vocab,)."""
        if mask[self.stop_ids[0]] and (is_long or rng.random() < 0.2):
            return self.stop_ids[0]
        if rng.random() < (0.8 if is_long else 0.1):
            ways = [token for token in self.way_out if mask[token]]
            if mask[self.way_out[0]] and mask[self.way_out[1]]:  # both brackets: this is within a text
                ways = [token for token in ways if self.spelt[token] == b'"']
            if ways:
                return ways[0]
        common = self.short if is_long else self.usual
        usual = common[mask[common]]
        return int(rng.choice(usual if len(usual) and rng.random() < 0.5 else np.flatnonzero(mask)))
