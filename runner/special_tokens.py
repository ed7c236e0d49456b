"""Special tokens: which texts are cut out of a prompt before it is tokenised, and which ids end an answer."""

from collections.abc import Iterable, Mapping, Sequence

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""`tokenizer.ggml.token_type` as the GGUF specification numbers it."""

END_OF_GENERATION = frozenset(
    {
        "<|eot_id|>",  # Llama 3
        "<|eom_id|>",
        "<|end_of_text|>",
        "<|im_end|>",  # ChatML: Qwen, SmolLM
        "<|endoftext|>",
        "<end_of_turn>",  # Gemma
        "<eos>",
        "<|end|>",  # Phi
        "</s>",  # Llama 2, Mistral
        "<EOT>",
        "_<EOT>",
        "[EOT]",
        "[EOS]",
        "<｜end▁of▁sentence｜>",  # noqa: RUF001 - DeepSeek's fullwidth bars
        "<end_of_utterance>",
        # A model that is not asked to fill in the middle and writes one of these has run on into the next file.
        "<|fim_pad|>",
        "<fim-pad>",
        "<fim_pad>",
        "<|fim_repo|>",
        "<|repo_name|>",
        "<fim-repo>",
        "<reponame>",
        "<|file_sep|>",
    }
)
"""Texts that end an answer in every vocabulary that has them; files often name only one of theirs in the metadata."""

_PREFIX = 4


def is_end_marker(text: str, token_type: int) -> bool:
    """Whether a token of this text and type ends an answer, whatever the metadata says about it.

    `</s>` is an ordinary HTML tag where the vocabulary declares it user-defined, as Gemma's does.
    """
    return text in END_OF_GENERATION and not (text == "</s>" and token_type == USER_DEFINED)


class SpecialTokens:
    """The tokens that are recognised by their text in a prompt, ordered so that a longer one wins."""

    def __init__(self, tokens: Mapping[str, int], control: Iterable[str]) -> None:
        """Take the id of each special text, and those texts that only count when special tokens are parsed."""
        self._tokens = tokens
        self._control = frozenset(control)
        by_length = sorted((text for text in tokens if text), key=lambda text: -len(text.encode()))
        self._ranks = {text: rank for rank, text in enumerate(by_length)}
        # Gemma has 6,000 `<unused123>`; one search for `<unu` rules them all out.
        self._by_prefix: dict[str, list[str]] = {}
        for text in by_length:
            self._by_prefix.setdefault(text[:_PREFIX], []).append(text)

    def split(self, text: str, parse_control: bool) -> list[str | int]:
        """Cut `text` at its special tokens: ids stand for the tokens, strings (never empty) for what lies between."""
        found = [
            special
            for prefix, group in self._by_prefix.items()
            if prefix in text
            for special in group
            if special in text and (parse_control or special not in self._control)
        ]
        parts: list[str | int] = [text] if text else []
        for special in sorted(found, key=self._ranks.__getitem__):
            parts = _cut(parts, special, self._tokens[special])
        return parts


def _cut(parts: Sequence[str | int], special: str, token: int) -> list[str | int]:
    cut: list[str | int] = []
    for part in parts:
        if isinstance(part, int) or special not in part:
            cut.append(part)
            continue
        for i, between in enumerate(part.split(special)):
            if i:
                cut.append(token)
            if between:
                cut.append(between)
    return cut
