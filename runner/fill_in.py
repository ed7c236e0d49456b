"""Fill in the middle: the prompt for what is missing between a prefix and a suffix, as models for code learn it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from llmrun.quant_formats.errors import PromptTooLong
from llmrun.runner.tokenizer import Tokenizer

_FAMILIES = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen, CodeGemma
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, Granite, Stable Code
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # noqa: RUF001 - DeepSeek's fullwidth bars
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),  # Code Llama
    ("<PRE>", "<SUF>", "<MID>"),
    ("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),  # GLM
)
"""What the markers before the prefix, the suffix and the middle are called, family by family."""

_SUFFIX_FIRST = ("[PREFIX]", "[SUFFIX]")  # Codestral: the suffix comes first, and the answer goes on from the prefix
_NAMED = (("fim_pre", "fim_suf", "fim_mid"), ("prefix", "suffix", "middle"))  # in the metadata, new and old
_REPOSITORY = ("<|repo_name|>", "<|fim_repo|>", "<repo_name>", "<reponame>", "<fim-repo>", "<REPO>")
_SEPARATOR = ("<|file_sep|>", "<file_sep>", "<|file_separator|>")
_PAD = ("<|fim_pad|>", "<fim_pad>", "<fim-pad>", "<PAD>")
_END = ("▁<EOT>",)  # Code Llama's; the others end as any answer does

REPOSITORY_NAME, FILE_NAME = "project", "file"  # of what is being written, which nobody tells us
MAX_ANSWER = 1 / 4  # of the context is kept free for the answer, if it may be that long
SUFFIX_SHARE = 1 / 4  # of the room, where prefix and suffix both have more than enough to say


@dataclass(frozen=True)
class FillPrompt:
    """A prompt, and what of the text is not in it because there was no room."""

    ids: list[int]
    n_prefix_left_out: int  # tokens, from the beginning of the prefix
    n_suffix_left_out: int  # tokens, from the end of the suffix
    files_left_out: tuple[str, ...]  # names of other files


@dataclass(frozen=True)
class FillIn:
    """The markers of a vocabulary, as ids.

    The prompt is prefix, suffix, and then the middle is asked for. Files that may help come before them, in the layout
    of a repository where the model knows one (Qwen2.5-Coder, arXiv 2409.12186):

        <repo> project <sep> name text <sep> name text <sep> file <pre> prefix <suf> suffix <mid>
    """

    tokenizer: Tokenizer
    prefix: int
    suffix: int
    middle: int | None  # None where the suffix comes first
    repository: int | None
    separator: int | None
    pad: int | None

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Self | None:
        """The markers that the metadata names or the vocabulary has; None for a model that was not trained for it."""
        markers = _markers(tokenizer)
        if markers is None:
            return None
        prefix, suffix, middle = markers
        others = (
            _first_id(tokenizer, name, texts)
            for name, texts in (("fim_rep", _REPOSITORY), ("fim_sep", _SEPARATOR), ("fim_pad", _PAD))
        )
        return cls(tokenizer, prefix, suffix, middle, *others)

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end the middle, for `SamplingParams.stop_ids`: whoever writes a marker has gone on to another."""
        ends = [self.tokenizer.token_id(text) for text in _END]
        ids = (self.prefix, self.suffix, self.middle, self.repository, self.separator, self.pad, *ends)
        return frozenset(token for token in ids if token is not None)

    def prompt(
        self,
        prefix: str,
        suffix: str,
        extra: Sequence[tuple[str, str]] = (),
        prompt: str = "",
        *,
        n_ctx: int,
        n_predict: int | None = None,
    ) -> FillPrompt:
        """Ask for what comes between `prefix` and `suffix`.

        extra: names and texts of files that may help, the most useful last.
        prompt: what stands between the prefix and the cursor, such as the beginning of the line.
        n_predict: most tokens of the answer; None for as many as fit.

        What does not fit is left out where it is farthest from the gap, and said in the result: the beginning of the
        prefix, the end of the suffix, and whole files, the first ones first. Special tokens in the texts are text.

        Raises PromptTooLong if the context has no room for any of it.
        """
        before, after = self._encode(prefix + prompt), self._encode(suffix)
        first = [self.tokenizer.bos_id] if self.tokenizer.adds_bos and self.tokenizer.bos_id is not None else []
        longest_answer = max(1, int(n_ctx * MAX_ANSWER))
        n_answer = longest_answer if n_predict is None else min(max(n_predict, 1), longest_answer)
        room = n_ctx - n_answer - len(first) - (2 if self.middle is None else 3)
        if room < 1:
            raise PromptTooLong(f"a context of {n_ctx} tokens has no room to fill in text; use a larger one")
        n_before, n_after = _shares(len(before), len(after), room)
        kept_before, kept_after = before[len(before) - n_before :], after[:n_after]
        files, left_out = self._files(extra, room - n_before - n_after)
        ids = [*first, *files, *self._around(kept_before, kept_after)]
        return FillPrompt(ids, len(before) - n_before, len(after) - n_after, left_out)

    def _around(self, before: list[int], after: list[int]) -> list[int]:
        if self.middle is None:
            return [self.suffix, *after, self.prefix, *before]
        return [self.prefix, *before, self.suffix, *after, self.middle]

    def _files(self, extra: Sequence[tuple[str, str]], room: int) -> tuple[list[int], tuple[str, ...]]:
        """The files that fit, and the names of the others."""
        opening, closing = self._frame() if extra else ([], [])
        room -= len(opening) + len(closing)
        parts: list[list[int]] = []
        for name, text in reversed(extra):
            part = self._file(name, text)
            if len(part) > room:
                break
            parts.append(part)
            room -= len(part)
        left_out = tuple(name for name, _ in extra[: len(extra) - len(parts)])
        if not parts:
            return [], left_out
        return [*opening, *(token for part in reversed(parts) for token in part), *closing], left_out

    def _frame(self) -> tuple[list[int], list[int]]:
        """What comes before the first file, and between the last one and the text with the gap."""
        opening = [] if self.repository is None else [self.repository, *self._encode(f"{REPOSITORY_NAME}\n")]
        closing = [] if self.separator is None else [self.separator, *self._encode(f"{FILE_NAME}\n")]
        return opening, closing

    def _file(self, name: str, text: str) -> list[int]:
        if self.separator is None:
            return self._encode(f"\n\n--- {name} ---\n\n{text}")
        return [self.separator, *self._encode(f"{name}\n{text}")]

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special=False, parse_special=False)


def _markers(tokenizer: Tokenizer) -> tuple[int, int, int | None] | None:
    """Ids of the markers of prefix, suffix and middle; those of a family belong together."""
    named = [[tokenizer.id_named(name) for name in names] for names in _NAMED]
    spelt = [[tokenizer.token_id(text) for text in texts] for texts in _FAMILIES]
    for prefix, suffix, middle in (*named, *spelt):
        if prefix is not None and suffix is not None and middle is not None:
            return prefix, suffix, middle
    prefix, suffix = (tokenizer.token_id(text) for text in _SUFFIX_FIRST)
    return None if prefix is None or suffix is None else (prefix, suffix, None)


def _first_id(tokenizer: Tokenizer, name: str, texts: Sequence[str]) -> int | None:
    named = tokenizer.id_named(name)
    spelt = (tokenizer.token_id(text) for text in texts)
    return named if named is not None else next((token for token in spelt if token is not None), None)


def _shares(n_before: int, n_after: int, room: int) -> tuple[int, int]:
    """How many tokens before and after the gap are kept.

    A prefix is cut in large steps, so that its beginning stays the same while somebody types at its end, and need not
    be computed again.
    """
    n_after = min(n_after, max(int(room * SUFFIX_SHARE), room - n_before))
    n_over = n_before - (room - n_after)
    if n_over <= 0:
        return n_before, n_after
    step = max(1, room // 16)
    return max(0, n_before - -(-n_over // step) * step), n_after
