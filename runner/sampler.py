"""From logits to the id of the next token."""

import math
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from llmrun.quant_formats.errors import CorruptFile, UsageError
from llmrun.runner.piece import TokenLogprobs

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio, the increment of SplitMix64
_NEGLIGIBLE = 30.0  # nats below the best token; 262,144 such tokens together weigh less than 2.5e-8 of it


@dataclass(frozen=True)
class SamplingParams:
    """How to choose tokens and when to stop; the defaults suit a chat with a small instruct model.

    The steps are applied in the order of the fields: bias, penalties, top-k, top-p, min-p, temperature. top-p and min-p
    look at the probabilities before the temperature, as in llama.cpp, so that a high one cannot let nonsense in.
    """

    logit_bias: Mapping[int, float] = field(default_factory=dict)  # added to the logits of these ids; -inf bans an id
    repeat_penalty: float = 1.0  # divides positive and multiplies negative logits of recent ids; 1 is off
    frequency_penalty: float = 0.0  # subtracted once for every recent occurrence of an id; 0 is off
    presence_penalty: float = 0.0  # subtracted once if an id occurred recently; 0 is off
    penalty_last_n: int = 64  # how many ids count as recent, prompt included; -1 is all of them, 0 none
    top_k: int = 40  # keep the k most likely ids; 0 is off
    top_p: float = 0.95  # keep the fewest ids whose probabilities reach p, at least one; 1 is off
    min_p: float = 0.05  # keep ids at least this likely relative to the most likely one; 0 is off
    temperature: float = 0.7  # divides the logits; 0 always takes the most likely id
    seed: int | None = None  # same seed, same text; None draws one
    max_tokens: int | None = None  # None is as many as the context holds
    stop: Sequence[str] = ()  # the text ends before the first of these
    stop_ids: frozenset[int] = frozenset()  # ids that end the answer besides those that end any
    logprobs: int | None = None  # report the chosen id's log probability, and those of the N likeliest; None is off

    def __post_init__(self) -> None:
        """Raise UsageError for a value that makes no sense."""
        _require(not isinstance(self.stop, str), "stop", "a list of strings", self.stop)
        object.__setattr__(self, "stop", tuple(self.stop))
        _require(all(self.stop), "stop", "free of empty strings", self.stop)
        _require(0 <= self.temperature < math.inf, "temperature", "0 or more", self.temperature)
        _require(self.top_k >= 0, "top_k", "0 (off) or more", self.top_k)
        _require(0 < self.top_p <= 1, "top_p", "above 0 and at most 1 (off)", self.top_p)
        _require(0 <= self.min_p <= 1, "min_p", "between 0 (off) and 1", self.min_p)
        _require(0 < self.repeat_penalty <= 100, "repeat_penalty", "above 0 and at most 100", self.repeat_penalty)
        for name in ("presence_penalty", "frequency_penalty"):
            _require(-100 <= getattr(self, name) <= 100, name, "between -100 and 100", getattr(self, name))
        _require(self.penalty_last_n >= -1, "penalty_last_n", "-1 (all) or more", self.penalty_last_n)
        _require(self.max_tokens is None or self.max_tokens > 0, "max_tokens", "1 or more", self.max_tokens)
        _require(self.seed is None or 0 <= self.seed <= _MASK, "seed", "between 0 and 2**64 - 1", self.seed)
        _require(self.logprobs is None or 0 <= self.logprobs <= 100, "logprobs", "between 0 and 100", self.logprobs)
        for token, bias in self.logit_bias.items():
            usable = token >= 0 and (abs(bias) <= 1e9 or bias == -math.inf)
            _require(usable, "logit_bias", "ids with values up to 1e9 or -inf", {token: bias})

    @property
    def greedy(self) -> bool:
        """Whether the most likely id is always taken."""
        return self.temperature == 0


class Sampler:
    """Chooses ids by the rules of a `SamplingParams`.

    A choice depends on the logits, the ids so far and the seed, and on nothing else: the random number for the token at
    position n is a hash of (seed, n). So a text can be repeated from any point on, whatever else runs at the same time.
    """

    def __init__(self, params: SamplingParams) -> None:
        self.params = params
        self.seed: int = secrets.randbits(32) if params.seed is None else params.seed

    def sample(self, logits: np.ndarray, history: Sequence[int]) -> int:
        """Choose the id that follows `history` (prompt and answer so far) from `logits` (n_vocab,) float32.

        `logits` is not changed. Of equally likely ids the lowest comes first.
        """
        logits = self._adjusted(logits, history)
        best = int(np.argmax(logits))
        peak = float(logits[best])
        if math.isnan(peak) or peak == math.inf:
            raise CorruptFile("the model computed logits that are not numbers; its file may be damaged, fetch it again")
        if peak == -math.inf:
            raise UsageError("logit_bias bans every token; leave at least one")
        if self.params.greedy:
            return best
        ids, weights = self._candidates(logits, peak)
        total = np.cumsum(weights)
        point = uniform(self.seed, len(history)) * total[-1]
        # the last candidate takes what rounding leaves over
        chosen = min(int(np.searchsorted(total, point, side="right")), len(ids) - 1)
        return int(ids[chosen])

    def _adjusted(self, logits: np.ndarray, history: Sequence[int]) -> np.ndarray:
        """Apply bias and penalties; returns `logits` itself where there is nothing to do."""
        params = self.params
        penalised = params.penalty_last_n != 0 and (
            params.repeat_penalty != 1 or params.presence_penalty != 0 or params.frequency_penalty != 0
        )
        if not penalised and not params.logit_bias:
            return logits
        logits = logits.copy()
        for token, bias in params.logit_bias.items():
            if token >= len(logits):
                raise UsageError(f"logit_bias names token {token}, but the model has only {len(logits)}")
            logits[token] += bias
        if penalised and len(history) > 0:
            recent = history if params.penalty_last_n < 0 else history[-params.penalty_last_n :]
            counts = Counter(recent)
            ids = np.fromiter(counts.keys(), np.int64, len(counts))
            n_times = np.fromiter(counts.values(), np.float32, len(counts))
            values = logits[ids]
            penalty = np.float32(params.repeat_penalty)
            values = np.where(values > 0, values / penalty, values * penalty)
            logits[ids] = values - n_times * np.float32(params.frequency_penalty) - np.float32(params.presence_penalty)
        return logits

    def _candidates(self, logits: np.ndarray, peak: float) -> tuple[np.ndarray, np.ndarray]:
        """Ids (n,) that survive top-k, top-p and min-p, and their weights (n,) float64 at the temperature."""
        params = self.params
        if params.top_k > 0:
            ids = _top_k(logits, peak, params.top_k)
        else:
            # drops only what is negligible both before the temperature, where top-p looks, and after
            ids = _above(logits, peak - _NEGLIGIBLE * max(1.0, params.temperature))
        gaps = logits[ids].astype(np.float64) - peak  # (n,) <= 0
        floor = math.log(params.min_p) if params.min_p > 0 else -math.inf
        kept = _nucleus(gaps, params.top_p, floor) if params.top_p < 1 else np.flatnonzero(gaps >= floor)
        ids, gaps = ids[kept], gaps[kept]
        with np.errstate(over="ignore"):  # a temperature of 1e-310 is as good as 0
            return ids, np.exp(gaps / params.temperature)


def log_probabilities(logits: np.ndarray, chosen: int, n_top: int) -> TokenLogprobs:
    """Log probability of an id, and of the `n_top` likeliest, by `logits` (n_vocab,) as the model gave them."""
    peak = float(logits.max())
    total = peak + math.log(float(np.exp(logits - np.float32(peak), dtype=np.float64).sum()))
    top = _top_k(logits, peak, n_top).tolist() if n_top else []
    return TokenLogprobs(float(logits[chosen]) - total, tuple((i, float(logits[i]) - total) for i in top))


def uniform(seed: int, n: int) -> float:
    """Random number n of a seed, in [0, 1): SplitMix64 (Steele, Lea, Flood 2014), random access."""
    start = _mix((seed + _GOLDEN) & _MASK)
    return (_mix((start + (n + 1) * _GOLDEN) & _MASK) >> 11) * 2.0**-53


def _mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def _above(logits: np.ndarray, threshold: float) -> np.ndarray:
    """Ids whose logit reaches the threshold, in ascending order; banned ids never do."""
    return np.flatnonzero(logits >= max(threshold, float(np.finfo(np.float32).min)))


def _top_k(logits: np.ndarray, peak: float, k: int) -> np.ndarray:
    """Ids of the k largest logits, best first, exactly, without sorting the vocabulary.

    Widens a window below the peak until k ids lie inside: the top k of the window are the top k of all.
    """
    for window in (4.0, 8.0, 16.0, 32.0, math.inf):
        ids = _above(logits, peak - window)
        if len(ids) >= k:
            break
    if len(ids) > k:
        values = logits[ids]
        ids = ids[values >= np.partition(values, len(ids) - k)[len(ids) - k]]  # ties of the k-th stay until the sort
    order = np.argsort(-logits[ids], kind="stable")[:k]
    return ids[order]


def _nucleus(gaps: np.ndarray, top_p: float, floor: float) -> np.ndarray:
    """Indices of the fewest ids whose probabilities reach top_p, less those below the floor of min-p, best first.

    gaps (n,) are log weights relative to the best. Only ids in a window below the peak are sorted; it is widened until
    it holds enough probability or reaches the floor.
    """
    weights = np.exp(gaps)
    goal = top_p * weights.sum()
    for window in (2.0, 4.0, 8.0, 16.0, math.inf):
        inside = np.flatnonzero(gaps >= max(-window, floor))
        if -window <= floor or weights[inside].sum() >= goal:
            break
    order = inside[np.argsort(-gaps[inside], kind="stable")]
    enough = int(np.searchsorted(np.cumsum(weights[order]), goal, side="left"))
    return order[: enough + 1]


def _require(ok: bool, name: str, wanted: str, value: object) -> None:
    if not ok:
        raise UsageError(f"{name} must be {wanted}, not {value!r}")
