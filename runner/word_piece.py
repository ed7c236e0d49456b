"""WordPiece: text is split at spaces and punctuation, and each word into the longest pieces of the vocabulary."""

from collections.abc import Mapping, Sequence

from llmrun.runner.sentencepiece import SPACE
from llmrun.runner.special_tokens import NORMAL

_LONGEST_WORD = 100  # characters; longer ones are unknown
_CAPITALISED = f"{SPACE}The"


class WordPiece:
    """Encodes text without special tokens, as the models with `tokenizer.ggml.model` = "bert" expect.

    The work is done by the `tokenizers` library. In GGUF a piece that begins a word begins with U+2581, and one inside
    a word has no mark, where BERT's own files write nothing and "##". A vocabulary without capitals is for text in
    small letters without accents; the file does not say so.
    """

    def __init__(self, vocabulary: Mapping[str, int], types: Sequence[int], unknown: int | None) -> None:
        """Take ids by token text, the type of each id, and the id for words that cannot be spelt."""
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers  # late: only encoding needs it

        pieces = {
            text if types[token] != NORMAL else text[1:] if text.startswith(SPACE) else f"##{text}": token
            for text, token in vocabulary.items()
        }
        names = {token: text for text, token in pieces.items()}
        unknown_name = names.get(unknown, "[UNK]") if unknown is not None else "[UNK]"
        model = models.WordPiece(pieces, unk_token=unknown_name, max_input_chars_per_word=_LONGEST_WORD)
        is_cased = _CAPITALISED in vocabulary
        self._library = Tokenizer(model)
        self._library.normalizer = normalizers.BertNormalizer(
            clean_text=True, handle_chinese_chars=True, strip_accents=not is_cased, lowercase=not is_cased
        )
        self._library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`."""
        ids: list[int] = self._library.encode(text, add_special_tokens=False).ids
        return ids
