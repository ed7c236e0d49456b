"""How many tokens of prompts join a step of running answers, so that these do not stall."""

LONGEST = 1.5  # times the step without prompts; the streams should not see twice their usual pause
GROUP = 8  # tokens; a product takes as long for one column as for eight
LEAST = 2  # tokens that a prompt gets in any case, so that it comes to its end
LEARN_AFTER = 64  # steps with prompts, after which one without tells how long that takes by now
SMOOTHING = 0.2  # weight of the latest measurement


class Pace:
    """Learns from the times of steps what the next one may take.

    A prompt may be cut anywhere without changing a bit of what comes out, so the clock is free to decide.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._plain: dict[int, float] = {}  # seconds of a step without prompts, by the number of its answers
        self._per_token: float | None = None  # seconds that a token of a prompt adds
        self._n_since_plain = 0
        self._n_latest = GROUP // 2  # tokens of prompts in the latest step that had some

    def limit(self, n_decoding: int) -> int:
        """Tokens of prompts for a step with this many running answers; 0 to learn how long it takes without."""
        if n_decoding == 0:
            return self._most
        plain = self._plain_seconds(n_decoding)
        if plain is None or self._n_since_plain >= LEARN_AFTER:
            return 0
        n_tokens = 2 * self._n_latest  # at most: what was measured with few tokens says little about many
        if self._per_token is not None:
            n_tokens = min(n_tokens, int((LONGEST - 1) * plain / self._per_token))
        if n_tokens > GROUP:
            n_tokens -= n_tokens % GROUP
        return max(LEAST, min(n_tokens, self._most))

    def note(self, n_decoding: int, n_prompt: int, seconds: float) -> None:
        """Learn from a step with so many answers and so many tokens of prompts."""
        if n_prompt == 0:
            self._n_since_plain = 0
            self._plain[n_decoding] = _smooth(self._plain.get(n_decoding), seconds)
        elif (plain := self._plain_seconds(n_decoding)) is not None:
            self._n_since_plain += 1
            self._n_latest = n_prompt
            added = min(max(seconds - plain, plain / 100), 4 * plain)  # a pause of the system says nothing
            self._per_token = _smooth(self._per_token, added / n_prompt)

    def _plain_seconds(self, n_decoding: int) -> float | None:
        """Seconds without prompts; for a number that is new, those of somewhat fewer answers, which are no more."""
        near = (n for n in range(n_decoding, n_decoding // 2, -1) if n in self._plain)
        return next((self._plain[n] for n in near), None)


def _smooth(before: float | None, now: float) -> float:
    return now if before is None else (1 - SMOOTHING) * before + SMOOTHING * now
