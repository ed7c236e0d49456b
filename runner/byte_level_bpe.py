"""Byte-level BPE: text is split by a regular expression, its bytes are spelt as letters, and merges join them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmrun.quant_formats.errors import CorruptFile, UnknownPreTokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer as LibraryTokenizer

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# The published patterns write (?i:'s|'t|...), which by Unicode case folding also takes U+017F for an s. Models in GGUF
# are run everywhere with these plain letters, and so are tokenised alike.
_LLAMA3 = (
    r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_DIGIT = r"\p{N}"

PART = 1 << 15  # characters to encode at a time
# between words, and before a line that begins with one: all patterns above split there, whatever else is around
_CUT = re.compile(r"(?<=[a-zA-Z])(?= [a-zA-Z])|(?<=[a-zA-Z]\n)(?=[a-zA-Z])")


@dataclass(frozen=True)
class PreTokenizer:
    """How a vocabulary splits text before merging: patterns applied one after the other, each to the pieces so far."""

    patterns: tuple[str, ...]
    ignore_merges: bool = False  # a piece that is itself a token is taken whole
    add_bos: bool = False  # when the metadata does not say


def _named(pre_tokenizer: PreTokenizer, *names: str) -> dict[str, PreTokenizer]:
    return dict.fromkeys(names, pre_tokenizer)


PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    **_named(
        PreTokenizer((_GPT2,)),
        *("gpt-2", "phi-2", "olmo", "mpt", "jais", "trillion", "exaone4", "mellum", "gigachat", "a.x-4.0"),
    ),
    **_named(
        PreTokenizer((_LLAMA3,), ignore_merges=True, add_bos=True),
        *("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
    ),
    **_named(PreTokenizer((_LLAMA3,)), "smaug-bpe", "dbrx", "chatglm-bpe", "glm4"),
    **_named(
        PreTokenizer((_QWEN2,)),
        *("qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2"),
    ),
    **_named(
        PreTokenizer((_DIGIT, _GPT2)),
        *("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"),
    ),
}
"""Rows of `tokenizer.ggml.pre`: the names that converters write, grouped by the way of splitting they share."""


def _byte_letters() -> list[str]:
    """Letter of each byte: itself where it prints in Latin-1, else the next free letter from U+0100 on (GPT-2)."""
    letters = [chr(byte) for byte in range(256)]
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    for i, byte in enumerate(sorted(set(range(256)) - printable)):
        letters[byte] = chr(0x100 + i)
    return letters


_BYTE_OF_LETTER = {letter: bytes([byte]) for byte, letter in enumerate(_byte_letters())}


def pre_tokenizer_named(name: str | None) -> PreTokenizer:
    """Look up `tokenizer.ggml.pre`; raises UnknownPreTokenizer for an unknown name and for a file without one."""
    if name in PRE_TOKENIZERS:
        return PRE_TOKENIZERS[name]
    known = ", ".join(sorted(PRE_TOKENIZERS))
    if name is None:
        raise UnknownPreTokenizer(
            "the file does not name its pre-tokenizer (tokenizer.ggml.pre), so its text would be split wrongly; "
            "convert the model again with a recent converter"
        )
    raise UnknownPreTokenizer(f"unknown pre-tokenizer {name!r} (tokenizer.ggml.pre); known ones: {known}")


class ByteLevelBPE:
    """Encodes text without special tokens; the work is done by the `tokenizers` library."""

    def __init__(self, pre_tokenizer: PreTokenizer, vocabulary: Mapping[str, int], merges: Sequence[str]) -> None:
        """Build from ids by token text (in byte letters) and the merges, "left right", in order of rank."""
        self._library = _build(pre_tokenizer, vocabulary, merges)

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`."""
        ids: list[int] = []
        for part in _parts(text):
            ids += self._library.encode(part, add_special_tokens=False).ids
        return ids


def _parts(text: str) -> Iterator[str]:
    """Cut a long text where it makes no difference: the library takes a hundred times the memory of what it encodes."""
    begin = 0
    while len(text) - begin > PART and (cut := _CUT.search(text, begin + PART)):
        yield text[begin : cut.start()]
        begin = cut.start()
    yield text[begin:]


def bytes_of(token: str) -> bytes:
    """Bytes that a token's letters spell; a character that is no byte letter stands for its own UTF-8."""
    return b"".join(_BYTE_OF_LETTER.get(letter) or letter.encode() for letter in token)


def _build(pre_tokenizer: PreTokenizer, vocabulary: Mapping[str, int], merges: Sequence[str]) -> "LibraryTokenizer":
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers  # late: only encoding needs it

    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    if not all(right for _, right in pairs):
        raise CorruptFile("tokenizer.ggml.merges should hold pairs, each two tokens with one space between")
    try:
        model = models.BPE(dict(vocabulary), pairs, ignore_merges=pre_tokenizer.ignore_merges)
    except Exception as error:  # the library raises nothing narrower
        reason = " ".join(str(error).split())
        raise CorruptFile(f"tokenizer.ggml.merges does not fit the vocabulary: {reason}") from error
    tokenizer = Tokenizer(model)
    splits = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in pre_tokenizer.patterns]
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, letters])
    return tokenizer
