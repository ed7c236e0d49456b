"""The sampler against naive float64 twins, its randomness against what the weights promise."""

import math
from collections import Counter

import numpy as np
import pytest

from llmrun.quant_formats.errors import CorruptFile, UsageError
from llmrun.runner.sampler import Sampler, SamplingParams, uniform

OFF = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "temperature": 1.0}


def naive_probabilities(logits: np.ndarray, history: list[int], params: SamplingParams) -> np.ndarray:
    """Sort everything, one id after the other, in float64."""
    values = logits.astype(np.float64)
    for token, bias in params.logit_bias.items():
        values[token] += bias
    n = len(history) if params.penalty_last_n < 0 else params.penalty_last_n
    for token, count in Counter(history[len(history) - min(n, len(history)) :]).items():
        positive = values[token] > 0
        values[token] = values[token] / params.repeat_penalty if positive else values[token] * params.repeat_penalty
        values[token] -= count * params.frequency_penalty + params.presence_penalty
    order = sorted(range(len(values)), key=lambda token: (-values[token], token))
    order = [token for token in order if values[token] > -math.inf]
    if params.top_k:
        order = order[: params.top_k]
    peak = values[order[0]]
    weights = {token: math.exp(values[token] - peak) for token in order}
    goal, total, kept = params.top_p * math.fsum(weights.values()), 0.0, []
    for token in order:
        if total >= goal and params.top_p < 1:
            break
        total += weights[token]
        kept.append(token)
    kept = [token for token in kept if weights[token] >= params.min_p]
    result = np.zeros(len(values))
    for token in kept:
        result[token] = math.exp((values[token] - peak) / params.temperature)
    return result / result.sum()


def probabilities(logits: np.ndarray, history: list[int], params: SamplingParams) -> np.ndarray:
    """What the sampler chooses from, as a distribution over the vocabulary."""
    sampler = Sampler(params)
    adjusted = sampler._adjusted(logits, history)
    ids, weights = sampler._candidates(adjusted, float(adjusted.max()))
    result = np.zeros(len(logits))
    result[ids] = weights
    return result / result.sum()


CASES = [
    {},
    {"temperature": 2.5},
    {"temperature": 0.1},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 5000},
    {"top_p": 0.5},
    {"top_p": 0.999},
    {"min_p": 0.2},
    {"min_p": 1.0},
    {"top_p": 0.9, "min_p": 0.01},
    {"top_k": 40, "top_p": 0.95, "min_p": 0.05, "temperature": 0.7},
    {"repeat_penalty": 1.3},
    {"repeat_penalty": 0.5, "penalty_last_n": 4},
    {"presence_penalty": 1.5, "penalty_last_n": -1},
    {"frequency_penalty": 0.7, "presence_penalty": -0.5},
    {"logit_bias": {3: 5.0, 11: -math.inf, 999: -2.5}},
    {"logit_bias": {5: 30.0}, "repeat_penalty": 1.1, "frequency_penalty": 0.2, "top_k": 20, "top_p": 0.8},
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("scale", [0.2, 2.0, 15.0])
def test_probabilities_are_those_of_the_naive_twin(case: dict, scale: float) -> None:
    rng = np.random.default_rng(3)
    logits = (rng.normal(size=1000) * scale).astype(np.float32)
    history = rng.integers(0, 30, 100).tolist()
    params = SamplingParams(**(OFF | case))
    got, wanted = probabilities(logits, history, params), naive_probabilities(logits, history, params)
    np.testing.assert_allclose(got, wanted, rtol=2e-5 * max(1, scale / params.temperature), atol=1e-9)
    assert Sampler(SamplingParams(**(OFF | case | {"temperature": 0}))).sample(logits, history) == wanted.argmax()


def test_chosen_ids_follow_the_probabilities() -> None:
    logits = np.log(np.array([0.4, 0.25, 0.2, 0.1, 0.05])).astype(np.float32)
    params = SamplingParams(**OFF, seed=1)
    n = 20_000
    history = [0] * n
    sampler = Sampler(params)
    counts = np.bincount([sampler.sample(logits, history[:i]) for i in range(0, n, 4)], minlength=5)
    expected = counts.sum() * np.exp(logits)
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < 18.5  # 4 degrees of freedom, p = 0.001; the seed is fixed


def test_random_numbers_are_even_and_unrelated() -> None:
    first = np.array([[uniform(seed, n) for n in range(500)] for seed in range(40)])
    counts = np.histogram(first, bins=20, range=(0, 1))[0]
    assert ((counts - first.size / 20) ** 2 / (first.size / 20)).sum() < 43.8  # 19 degrees of freedom, p = 0.001
    assert abs(np.corrcoef(first[:, :-1].ravel(), first[:, 1:].ravel())[0, 1]) < 0.03
    assert abs(np.corrcoef(first[:-1].ravel(), first[1:].ravel())[0, 1]) < 0.03


def test_a_choice_depends_on_seed_and_position_only() -> None:
    logits = np.random.default_rng(0).normal(size=500).astype(np.float32)
    params = SamplingParams(**OFF, seed=7)
    forwards = [Sampler(params).sample(logits, [1] * n) for n in range(50)]
    sampler = Sampler(params)
    backwards = [sampler.sample(logits, [1] * n) for n in reversed(range(50))]
    assert forwards == backwards[::-1]
    assert forwards != [Sampler(SamplingParams(**OFF, seed=8)).sample(logits, [1] * n) for n in range(50)]
    assert len(set(forwards)) > 10


def test_without_a_seed_one_is_drawn_and_can_be_used_again() -> None:
    drawn = Sampler(SamplingParams(**OFF))
    assert drawn.seed != Sampler(SamplingParams(**OFF)).seed
    logits = np.zeros(1000, np.float32)
    assert drawn.sample(logits, []) == Sampler(SamplingParams(**OFF, seed=drawn.seed)).sample(logits, [])


def test_equal_logits_take_the_lowest_id_first() -> None:
    logits = np.array([1, 3, 3, 3, 2], np.float32)
    assert Sampler(SamplingParams(temperature=0)).sample(logits, []) == 1
    params = SamplingParams(**(OFF | {"top_k": 2}))
    assert np.flatnonzero(probabilities(logits, [], params)).tolist() == [1, 2]


def test_the_logits_of_the_model_are_not_changed() -> None:
    logits = np.arange(10, dtype=np.float32)
    logits.flags.writeable = False
    params = SamplingParams(repeat_penalty=2, logit_bias={9: -math.inf}, temperature=0)
    assert Sampler(params).sample(logits, [8]) == 7


def test_tiny_temperatures_are_as_good_as_greedy() -> None:
    logits = np.array([0, 1, 2, 1], np.float32)
    for temperature in (1e-3, 1e-300, 5e-324):
        assert Sampler(SamplingParams(**(OFF | {"temperature": temperature}))).sample(logits, []) == 2


def test_banned_ids_never_come() -> None:
    logits = np.full(50, -math.inf, np.float32)
    logits[[3, 4]] = 1
    for case in ({}, {"top_k": 10}, {"top_p": 0.99}, {"temperature": 100.0}):
        sampler = Sampler(SamplingParams(**(OFF | case)))
        assert {sampler.sample(logits, [0] * n) for n in range(40)} == {3, 4}


def test_logits_that_no_id_can_be_chosen_from() -> None:
    with pytest.raises(CorruptFile, match="not numbers"):
        Sampler(SamplingParams()).sample(np.array([0, math.nan, 1], np.float32), [])
    with pytest.raises(CorruptFile, match="not numbers"):
        Sampler(SamplingParams()).sample(np.array([0, math.inf, 1], np.float32), [])
    with pytest.raises(UsageError, match="bans every token"):
        Sampler(SamplingParams(logit_bias={0: -math.inf})).sample(np.zeros(1, np.float32), [])


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_p": math.nan},
        {"min_p": -0.1},
        {"min_p": 2.0},
        {"repeat_penalty": 0.0},
        {"presence_penalty": math.nan},
        {"frequency_penalty": math.inf},
        {"penalty_last_n": -2},
        {"max_tokens": 0},
        {"seed": -1},
        {"stop": "text"},
        {"stop": ("a", "")},
        {"logit_bias": {-1: 0.0}},
        {"logit_bias": {1: math.nan}},
        {"logit_bias": {1: math.inf}},
    ],
    ids=str,
)
def test_values_that_make_no_sense_are_refused_by_name(bad: dict) -> None:
    with pytest.raises(UsageError, match=next(iter(bad))):
        SamplingParams(**bad)
