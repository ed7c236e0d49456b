"""Ends a text before a stop string, while the text is still being written."""

from collections.abc import Sequence


class StopStrings:
    """Passes text on as soon as it cannot be part of a stop string.

    The stop string that is complete first counts, of two that end at the same character the longer. So the result does
    not depend on the pieces in which the text arrives.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        assert all(stop), "an empty stop string"
        self._stop = stop
        self._held = ""  # the end of the text so far that could begin a stop string
        self.found: str | None = None  # the stop string that ended the text

    def push(self, text: str) -> str:
        """Take more text and return what is certain; everything from a stop string on is dropped."""
        if self.found is not None or not self._stop:
            return "" if self._stop else text
        text = self._held + text
        self._held = ""
        hits = [(text.find(stop) + len(stop), -len(stop), stop) for stop in self._stop if stop in text]
        if hits:
            end, _, self.found = min(hits)
            return text[: end - len(self.found)]
        n_held = self._n_held(text)
        self._held = text[len(text) - n_held :]
        return text[: len(text) - n_held]

    def flush(self) -> str:
        """Return what was held back, at the end of the text."""
        held, self._held = self._held, ""
        return held

    def _n_held(self, text: str) -> int:
        """Length of the longest end of the text that begins a stop string."""
        longest = max(len(stop) for stop in self._stop) - 1
        for n in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-n:]) for stop in self._stop):
                return n
        return 0
