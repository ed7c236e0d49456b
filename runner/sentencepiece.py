"""SentencePiece BPE: no pre-tokenizer and no merge list; neighbours join in the order of the joined token's score."""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from heapq import heapify, heappop, heappush

SPACE = "\u2581"
"""The character that stands for a space inside tokens."""

_LONG = 2048
_CACHED_WORDS = 1 << 16


class SentencePiece:
    """Encodes text without special tokens, as the models with `tokenizer.ggml.model` = "llama" expect.

    Written here because the `tokenizers` library wants a merge list, which takes seconds to derive from 262,144 scores.
    Source: SentencePiece's BPE mode (Kudo and Richardson 2018), with llama.cpp's tie-break: the leftmost pair.
    """

    def __init__(self, vocabulary: Mapping[str, int], scores: Sequence[float], unknown: int | None) -> None:
        """Take ids by token text, the score of each id, and the id for bytes that no token spells."""
        self._vocabulary = vocabulary
        self._scores = scores
        self._unknown = unknown
        self._encode_word = lru_cache(_CACHED_WORDS)(self._merge)

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, in which spaces are still spaces."""
        text = text.replace(" ", SPACE)
        if len(text) < _LONG:
            return self._merge(text)
        return [token for word in self._word_start.split(text) for token in self._encode_word(word)]

    @cached_property
    def _word_start(self) -> re.Pattern[str]:
        """Places where no token reaches across, so that the words of a long text are tokenised apart and only once.

        Most vocabularies have a space nowhere but at the start of a token, or in runs; Gemma has one exception. A
        newline joins the tokens for the search and so is never taken for such a place.
        """
        before_space = set(re.findall(f"([^{SPACE}\n]){SPACE}", "\n".join(self._vocabulary)))
        joined = "".join(re.escape(char) for char in sorted(before_space | {SPACE, "\n"}))
        return re.compile(f"(?<=[^{joined}])(?={SPACE})")

    def _merge(self, text: str) -> list[int]:
        """Join symbols, highest score first. A symbol is named by its start; `end[start]` is 0 once it is gone."""
        find, scores = self._vocabulary.get, self._scores
        end = list(range(1, len(text) + 1))
        previous = list(range(-1, len(text) - 1))
        # (-score, start of the left symbol, start of the right one, end of the right one)
        pairs = [
            (-scores[token], start, start + 1, start + 2)
            for start in range(len(text) - 1)
            if (token := find(text[start : start + 2])) is not None
        ]
        heapify(pairs)
        while pairs:
            _, left, right, stop = heappop(pairs)
            if end[left] != right or end[right] != stop:
                continue  # one of the two was joined with another since
            end[left], end[right] = stop, 0
            if stop < len(text):
                previous[stop] = left
                after = end[stop]
                if (token := find(text[left:after])) is not None:
                    heappush(pairs, (-scores[token], left, stop, after))
            before = previous[left]
            if before >= 0 and (token := find(text[before:stop])) is not None:
                heappush(pairs, (-scores[token], before, left, stop))
        return self._ids(text, end)

    def _ids(self, text: str, end: list[int]) -> list[int]:
        ids: list[int] = []
        start = 0
        while start < len(text):
            symbol = text[start : end[start]]
            token = self._vocabulary.get(symbol)
            ids.extend([token] if token is not None else self._byte_ids(symbol))
            start = end[start]
        return ids

    def _byte_ids(self, symbol: str) -> list[int]:
        """Spell a character without a token in bytes, or as the unknown token where the vocabulary has no bytes."""
        ids = [self._vocabulary.get(f"<0x{byte:02X}>", self._unknown) for byte in symbol.encode()]
        return [token for token in ids if token is not None]
