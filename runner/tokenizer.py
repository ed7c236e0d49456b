"""The tokenizer of a model, built from the metadata of its GGUF file alone."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from llmrun.quant_formats.errors import CorruptFile, InputError, MissingMetadata, UnsupportedModel
from llmrun.runner.byte_level_bpe import ByteLevelBPE, PreTokenizer, bytes_of, pre_tokenizer_named
from llmrun.runner.sentencepiece import SPACE, SentencePiece
from llmrun.runner.special_tokens import (
    BYTE,
    CONTROL,
    END_OF_GENERATION,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    SpecialTokens,
    is_end_marker,
)
from llmrun.runner.word_piece import WordPiece

_BYTE_LEVEL, _SENTENCE_PIECE, _WORD_PIECE = "gpt2", "llama", "bert"
_UNDEFINED = 0


class _Encoder(Protocol):
    def encode(self, text: str) -> list[int]: ...


class Tokenizer:
    """Turns text into token ids and back, to the id as llama.cpp does.

    Construction reads a few scalars. The vocabulary, the special tokens and the encoder are built when first needed:
    0.1 s for 49,152 byte-level tokens, 0.2 s for 262,144 SentencePiece tokens; decoding needs none of them.
    """

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        """Read the rules; see `from_gguf` for the errors."""
        self._metadata = metadata
        self._kind = self._get("model", str)
        if self._kind is None:
            raise MissingMetadata("the file has no tokenizer (tokenizer.ggml.model); use a complete model file")
        if self._kind not in (_BYTE_LEVEL, _SENTENCE_PIECE, _WORD_PIECE):
            raise UnsupportedModel(
                f"unknown tokenizer {self._kind!r} (tokenizer.ggml.model); "
                f"known ones: {_BYTE_LEVEL} (byte-level BPE), {_SENTENCE_PIECE} (SentencePiece), "
                f"{_WORD_PIECE} (WordPiece)"
            )
        self._tokens: Sequence[str] = self._array("tokens")
        self.n_vocab: int = len(self._tokens)
        self._types = self._token_types()
        self._pre_tokenizer: PreTokenizer | None = None
        is_sentence_piece = self._kind == _SENTENCE_PIECE
        if self._kind == _BYTE_LEVEL:
            self._pre_tokenizer = pre_tokenizer_named(self._get("pre", str))
        adds_bos = self._pre_tokenizer.add_bos if self._pre_tokenizer else True
        bos, eos = {_BYTE_LEVEL: (None, None), _SENTENCE_PIECE: (1, 2), _WORD_PIECE: self._word_piece_ends()}[
            self._kind
        ]
        self.bos_id: int | None = self._id("bos_token_id", default=bos)
        self.eos_id: int | None = self._id("eos_token_id", default=eos)
        self._first = self._added("add_bos_token", adds_bos, "bos_token_id", self.bos_id)
        self._last = self._added("add_eos_token", self._kind == _WORD_PIECE, "eos_token_id", self.eos_id)
        prefix = self._get("add_space_prefix", bool)
        self._adds_space: bool = is_sentence_piece and (prefix is None or prefix)
        self._words_have_spaces = self._adds_space or self._kind == _WORD_PIECE

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> "Tokenizer":
        """Build from `GGUFFile.metadata`.

        Raises MissingMetadata, UnsupportedModel (a kind of tokenizer that is not implemented), UnknownPreTokenizer
        and CorruptFile (tables that contradict each other).
        """
        return cls(metadata)

    @property
    def adds_bos(self) -> bool:
        """Whether `encode` puts BOS first when asked for special tokens."""
        return bool(self._first)

    def encode(
        self, text: str, add_special: bool = True, parse_special: bool = True, continues: bool = False
    ) -> list[int]:
        """Return the ids of `text`, which begins a text unless it `continues` one.

        add_special puts BOS before and EOS after where the metadata says so. With parse_special, special tokens
        written in the text become their ids; without it they are text like any other, which is right for what a
        stranger wrote. Raises InputError for a text that no UTF-8 can hold (lone surrogates).
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"the text is not valid Unicode: lone surrogate at character {error.start}") from error
        ids: list[int] = []
        after_special = not continues
        for part in self._special_tokens.split(text, parse_control=parse_special):
            if isinstance(part, int):
                ids.append(part)
            else:
                ids.extend(self._encoder.encode(" " + part if self._adds_space and after_special else part))
            after_special = isinstance(part, int)
        return [*self._first, *ids, *self._last] if add_special else ids

    def decode(self, ids: Iterable[int], skip_special: bool = True, continues: bool = False) -> str:
        """Return the text of `ids`; bytes that are no UTF-8 become U+FFFD.

        skip_special leaves out control tokens. The space that `encode` puts before the first word is taken off again
        unless the ids go on from an earlier text (continues).
        """
        shown = [token for token in ids if not (skip_special and self.is_special(token))]
        data = b"".join(map(self.token_bytes, shown))
        if self._words_have_spaces and not continues and shown and not self.is_special(shown[0]):
            data = data.removeprefix(b" ")
        return data.decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        """Bytes that one id stands for, which may be part of a character; a special token gives its name."""
        text, token_type = self._tokens[token], int(self._types[token])
        if token_type in (CONTROL, UNKNOWN, USER_DEFINED):
            return text.encode()
        if token_type == BYTE:
            return _byte_of(text)
        if token_type in (UNUSED, _UNDEFINED):
            return b""
        if self._kind == _BYTE_LEVEL:
            return text.encode() if is_end_marker(text, token_type) else bytes_of(text)
        return text.replace(SPACE, " ").encode()

    def is_special(self, token: int) -> bool:
        """Whether an id steers the model (BOS, end of turn, ...) rather than standing for text."""
        token_type = int(self._types[token])
        return token_type in (CONTROL, UNKNOWN) or is_end_marker(self._tokens[token], token_type)

    @cached_property
    def vocabulary_bytes(self) -> list[bytes]:
        """`token_bytes` of every id, much faster than one by one."""
        is_byte_level = self._kind == _BYTE_LEVEL
        return [
            self.token_bytes(token)
            if token_type != NORMAL or text in END_OF_GENERATION
            else bytes_of(text)
            if is_byte_level
            else text.replace(SPACE, " ").encode()
            for token, (text, token_type) in enumerate(zip(_texts(self._tokens), self._types.tolist(), strict=True))
        ]

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """The ids for which `is_special` holds."""
        marked = (token for token in map(self._vocabulary.get, END_OF_GENERATION) if token is not None)
        special = np.flatnonzero(np.isin(self._types, (CONTROL, UNKNOWN))).tolist()
        return frozenset((*special, *filter(self.is_special, marked)))

    def token_id(self, text: str) -> int | None:
        """Id of the token with exactly this text as the vocabulary spells it, such as "<|im_end|>"."""
        return self._vocabulary.get(text)

    def id_named(self, name: str) -> int | None:
        """Id that the metadata gives a part, such as "fim_pre"; None where it names none, or none of the vocabulary."""
        return self._id(f"{name}_token_id")

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end an answer: those that the metadata names, and those whose text says so."""
        named = (self.id_named(name) for name in ("eot", "eom"))
        known = ((text, self._vocabulary.get(text)) for text in END_OF_GENERATION)
        marked = (token for text, token in known if token is not None and is_end_marker(text, self._types[token]))
        return frozenset(token for token in (self.eos_id, *named, *marked) if token is not None)

    @cached_property
    def _vocabulary(self) -> dict[str, int]:
        return dict(zip(_texts(self._tokens), range(self.n_vocab), strict=True))

    @cached_property
    def _special_tokens(self) -> SpecialTokens:
        special = np.isin(self._types, (CONTROL, UNKNOWN, USER_DEFINED))
        tokens = {self._tokens[i]: i for i in np.flatnonzero(special).tolist()}
        # Some converters leave end markers as ordinary tokens.
        tokens |= {self._tokens[i]: i for i in self.stop_ids if is_end_marker(self._tokens[i], self._types[i])}
        return SpecialTokens(tokens, control=(text for text, token in tokens.items() if self.is_special(token)))

    @cached_property
    def _encoder(self) -> _Encoder:
        if self._pre_tokenizer:
            return ByteLevelBPE(self._pre_tokenizer, self._vocabulary, _texts(self._array("merges")))
        if self._kind == _WORD_PIECE:
            return WordPiece(self._vocabulary, self._types.tolist(), self._id("unknown_token_id", default=100))
        scores = self._array("scores")
        if len(scores) < self.n_vocab:
            raise CorruptFile(f"tokenizer.ggml.scores has {len(scores)} entries for {self.n_vocab} tokens")
        unknown = self._id("unknown_token_id", default=0)
        return SentencePiece(self._vocabulary, scores.tolist(), unknown)

    def _word_piece_ends(self) -> tuple[int | None, int | None]:
        """[CLS] and [SEP], by the names and the numbers that BERT gives them."""
        return self._id("cls_token_id", default=101), self._id("seperator_token_id", default=102)

    def _get(self, name: str, kind: type) -> Any:
        value = self._metadata.get(f"tokenizer.ggml.{name}")
        if value is not None and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
            raise CorruptFile(f"tokenizer.ggml.{name} should be of type {kind.__name__} and is {value!r:.40}")
        return value

    def _array(self, name: str) -> Any:
        array = self._metadata.get(f"tokenizer.ggml.{name}")
        if array is None:
            raise MissingMetadata(f"the file has no tokenizer.ggml.{name}; use a complete model file")
        is_text = name in ("tokens", "merges")
        if isinstance(array, str | bytes) or not isinstance(array, Sequence if is_text else np.ndarray):
            raise CorruptFile(f"tokenizer.ggml.{name} should be an array of {'strings' if is_text else 'numbers'}")
        return array

    def _token_types(self) -> np.ndarray:  # (n_vocab,) or longer
        if self._metadata.get("tokenizer.ggml.token_type") is None:
            return np.full(self.n_vocab, NORMAL, np.int32)
        types: np.ndarray = self._array("token_type")
        if len(types) < self.n_vocab:
            raise CorruptFile(f"tokenizer.ggml.token_type has {len(types)} entries for {self.n_vocab} tokens")
        return types[: self.n_vocab]

    def _id(self, name: str, default: int | None = None) -> int | None:
        """Id under a metadata key, or the default; converters write -1 for none, which no vocabulary contains."""
        token = self._get(name, int)
        token = default if token is None else token
        return token if token is not None and 0 <= token < self.n_vocab else None

    def _added(self, flag: str, default: bool, id_name: str, token: int | None) -> tuple[int, ...]:
        said = self._get(flag, bool)
        if not (default if said is None else said):
            return ()
        if token is None:
            raise MissingMetadata(f"the tokenizer needs a token that the file does not name (tokenizer.ggml.{id_name})")
        return (token,)


def _texts(array: Sequence[str]) -> list[str]:
    """All strings at once; `tolist` of a GGUF file's lazy array is faster than a loop over it."""
    return array if isinstance(array, list) else array.tolist()  # type: ignore[attr-defined]


def _byte_of(text: str) -> bytes:
    """Byte of a token spelt `<0x0A>`."""
    try:
        return bytes([int(text[3:5], 16)])
    except ValueError as error:
        raise CorruptFile(f"the tokenizer marks {text!r} as a byte; bytes are spelt <0x00> to <0xFF>") from error
