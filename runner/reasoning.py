"""What a model thinks before it answers, told apart from the answer."""

TAGS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("[THINK]", "[/THINK]"),  # Mistral
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Command
    ("<|channel>thought\n", "<channel|>"),  # Gemma 4
    ("<seed:think>", "</seed:think>"),
)
"""Texts that begin and end thoughts; in some vocabularies they are special tokens."""


class Reasoning:
    """Splits a text that comes in pieces into thoughts and answer.

    Thoughts are what stands between tags at the very beginning; later tags are text, for an answer may be about them.
    Some templates write the opening tag themselves, at the end of the prompt; so `prompt_end` is needed.
    """

    def __init__(self, prompt_end: str = "") -> None:
        self._ends = end_of_thoughts(prompt_end) or ""  # the tag that ends the thoughts
        self.is_thinking = bool(self._ends)
        self._is_answer = False
        self._held = ""  # perhaps a part of a tag

    @property
    def has_thoughts(self) -> bool:
        """Whether there were thoughts, be they empty."""
        return bool(self._ends)

    def feed(self, text: str) -> list[tuple[bool, str]]:
        """Take a piece; returns texts, each with whether it is a thought."""
        if self._is_answer:
            return [(False, text)] if text else []
        self._held += text
        parts: list[tuple[bool, str]] = []
        if not self.is_thinking and not self._open():
            return [] if not self._is_answer else self._rest(parts)
        thought, tag, rest = self._held.partition(self._ends)
        if tag:
            self.is_thinking, self._is_answer, self._held = False, True, rest
            return self._rest([(True, thought)] if thought else parts)
        n_held = overlap(thought, self._ends)
        self._held = thought[len(thought) - n_held :]
        return [(True, thought[: len(thought) - n_held])] if len(thought) > n_held else []

    def finish(self) -> list[tuple[bool, str]]:
        """What was held back, when there is no more text."""
        held, self._held = self._held, ""
        return [(self.is_thinking, held)] if held else []

    def _open(self) -> bool:
        """Whether the thoughts begin here; decides that this is the answer as soon as they cannot."""
        start = self._held.lstrip()
        for begins, ends in TAGS:
            if start.startswith(begins):
                self.is_thinking, self._ends, self._held = True, ends, start[len(begins) :]
                return True
        self._is_answer = not any(begins.startswith(start) for begins, _ in TAGS)
        return False

    def _rest(self, parts: list[tuple[bool, str]]) -> list[tuple[bool, str]]:
        held, self._held = self._held, ""
        return [*parts, (False, held)] if held else parts


def end_of_thoughts(prompt_end: str) -> str | None:
    """The tag that will end the thoughts that the end of a prompt has begun, None if it has not begun any."""
    text = prompt_end.rstrip()
    return next((ends for begins, ends in TAGS if text.endswith(begins.rstrip())), None)


def overlap(text: str, tag: str) -> int:
    """Number of characters at the end of the text that may be the beginning of a tag."""
    return next((n for n in range(min(len(text), len(tag) - 1), 0, -1) if tag.startswith(text[-n:])), 0)
