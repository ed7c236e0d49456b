"""What llama-server's requests mean and its replies look like, without a server."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mock_model import BOS, END, ByteTokenizer, MockModel, mock_engine
from pydantic import ValidationError

from llmrun.cli.server.llama_embedding import normalized
from llmrun.cli.server.llama_limits import LineLimits
from llmrun.cli.server.llama_prompt import MAX_PROMPTS, prompts_of
from llmrun.cli.server.llama_reply import how_it_ended, select, settings
from llmrun.cli.server.llama_request import CompletionBody
from llmrun.cli.server.llama_sampling import NO_OP_VALUES, grammar, n_predict, sampling
from llmrun.quant_formats.errors import UsageError
from llmrun.runner.sampler import SamplingParams


def params(**fields: Any) -> SamplingParams:
    return sampling(CompletionBody.model_validate(fields), ByteTokenizer())  # type: ignore[arg-type]


def test_fields_become_sampling_parameters() -> None:
    assert params() == SamplingParams()
    assert params(
        temperature=0.5, top_k=7, top_p=0.8, min_p=0.1, seed=3, n_predict=9, stop=["a", ""], repeat_penalty=1.2,
        repeat_last_n=-1, presence_penalty=0.3, frequency_penalty=0.4, n_probs=2,
    ) == SamplingParams(
        temperature=0.5, top_k=7, top_p=0.8, min_p=0.1, seed=3, max_tokens=9, stop=("a",), repeat_penalty=1.2,
        penalty_last_n=-1, presence_penalty=0.3, frequency_penalty=0.4, logprobs=2,
    )  # fmt: skip


def test_what_means_off_is_off() -> None:
    neutral = {name: values[0] for name, values in NO_OP_VALUES.items()}
    ignored = {"cache_prompt": False, "id_slot": 3, "n_keep": -1, "t_max_prompt_ms": 500, "xtc_threshold": 0.1}
    assert params(**neutral, **ignored, seed=-1, n_predict=-1, n_probs=0, mirostat_tau=5.0) == SamplingParams()
    assert params(seed=0xFFFFFFFF).seed is None
    assert (params(temperature=-1).temperature, params(top_k=-1).top_k) == (0, 0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mirostat", 2), ("typical_p", 0.7), ("dry_multiplier", 0.5), ("xtc_probability", 0.5), ("min_keep", 3),
        ("dynatemp_range", 0.5), ("top_n_sigma", 1.0), ("n_cmpl", 2), ("post_sampling_probs", True),
        ("lora", [{"id": 0, "scale": 0.5}]), ("return_progress", True), ("samplers", ["nonsense"]), ("top_p", 0.0),
        ("samplers", ["top_p", "top_k"]), ("samplers", "kk"), ("logit_bias", [[1]]), ("logit_bias", [["a", True]]),
    ],
)  # fmt: skip
def test_what_cannot_be_followed_is_named(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=name):
        params(**{name: value})


@pytest.mark.parametrize("fields", [{"n_predict": -3}, {"n_probs": 101}, {"foo": 1}, {"stop": "a"}, {"top_k": "40"}])
def test_fields_of_another_kind_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        params(**fields)


def test_samplers_that_are_not_listed_do_nothing() -> None:
    listed = params(samplers=["top_k", "temperature"], top_k=5, temperature=0.3, repeat_penalty=1.5, min_p=0.2)
    assert listed == SamplingParams(top_k=5, temperature=0.3, top_p=1, min_p=0)
    assert params(samplers="kt", top_k=5, temperature=0.3) == listed
    usual = ["penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"]
    assert params(samplers=usual) == params(samplers="edskypmxt") == SamplingParams()
    assert params(samplers=[]) == SamplingParams(top_k=0, top_p=1, min_p=0, temperature=1)
    assert params(samplers=["top_k", "top_p", "infill"], temperature=0.9).greedy


def test_biases_in_all_their_forms() -> None:
    expected = {97: 1.0, 98: 1.0, 5: -math.inf}
    assert params(logit_bias=[["ab", 1], [5, False]]).logit_bias == expected
    assert params(logit_bias={"ab": 1.0, "5": False}).logit_bias == expected
    assert params(ignore_eos=True).logit_bias == {END: -math.inf}


def test_limits_of_the_answer() -> None:
    bodies = [{}, {"n_predict": -2}, {"n_predict": 0}, {"max_tokens": 4}, {"n_predict": 3, "max_tokens": 4}]
    assert [n_predict(CompletionBody.model_validate(body)) for body in bodies] == [-1, -1, 0, 4, 3]
    assert params(n_predict=0).max_tokens == 1  # which is dropped


def test_grammars() -> None:
    def of(**fields: Any) -> Any:
        return grammar(CompletionBody.model_validate(fields))

    assert of(grammar="") is None
    assert of(grammar='root ::= "a"').kind == "gbnf"
    assert of(json_schema={}).kind == "json_schema"
    with pytest.raises(UsageError, match="json_schema"):
        of(json_schema={}, grammar='root ::= "a"')


def test_prompts() -> None:
    engine = mock_engine(MockModel(), tokenizer=ByteTokenizer(adds_bos=True))
    a, b = b"ab"
    assert prompts_of("ab", engine) == [[BOS, a, b]]
    assert prompts_of([1, 2], engine) == [[1, 2]]
    assert prompts_of(["a", 1, "b"], engine) == [[BOS, a, 1, b]]
    assert prompts_of([1, "a<|end|>"], engine) == [[1, a, END]]
    assert prompts_of(["a", "b"], engine) == [[BOS, a], [BOS, b]]
    assert prompts_of([[1, "a"], "b", {"prompt_string": "a"}], engine) == [[1, a], [BOS, b], [BOS, a]]


@pytest.mark.parametrize(
    "prompt",
    [
        None, [], [None], [[1.5]], [True], {"prompt_string": "a", "multimodal_data": ["x"]}, {"a": 1}, {},
        ["a"] * (MAX_PROMPTS + 1), [[[1]]],
    ],
)  # fmt: skip
def test_prompts_that_are_none(prompt: Any) -> None:
    with pytest.raises(UsageError, match="prompt"):
        prompts_of(prompt, mock_engine(MockModel()))


TEXT = "x = 1\n  y\n\tz  \n    w\nend\n  more"


@given(st.lists(st.integers(0, len(TEXT)), max_size=8), st.integers(0, 5))
def test_lines_end_where_they_are_indented_too_little(cuts: list[int], n_indent: int) -> None:
    at = sorted({0, *cuts, len(TEXT)})
    limits = LineLimits(n_indent)
    kept = "".join(limits.push(TEXT[a:b]) for a, b in itertools.pairwise(at))
    ends = {0: TEXT, 1: TEXT[:21], 2: TEXT[:11], 3: TEXT[:8], 4: TEXT[:8], 5: TEXT[:8]}
    assert kept == ends[n_indent]
    assert limits.is_over == (n_indent > 0)
    assert limits.has_line_break


def test_time_counts_once_there_is_a_line() -> None:
    clock = [0.0]
    limits = LineLimits(seconds=1.0, clock=lambda: clock[0])
    assert limits.push("a") == "a"
    clock[0] = 5.0
    assert limits.push("b") == "b"
    assert not limits.is_over
    assert limits.push("c\nd") == "c\nd"
    assert limits.is_over
    assert limits.push("e") == ""


def test_replies() -> None:
    assert how_it_ended("stop", None, False) == ("eos", "")
    assert how_it_ended("stop", "end", False) == ("word", "end")
    assert how_it_ended("context", None, False) == how_it_ended("stop", None, True) == ("limit", "")
    reply = {"a": 1, "b": {"c": 2}}
    assert select(reply, ["b/c", "a", "x", "a/b"]) == {"c": 2, "a": 1}
    assert select(reply, None) == select(reply, []) == reply
    shown = settings(params(samplers=["top_k"], top_k=3), 5, 1, 100, "m")
    assert shown["samplers"] == ["top_k"]


def test_vectors_are_divided_by_their_length() -> None:
    vector = np.array([3.0, -4.0], np.float32)
    assert normalized(vector, -1) is vector
    assert np.abs(normalized(vector, 0)).max() == pytest.approx(32760)
    for kind in (1, 2, 3, 400):
        assert np.linalg.norm(normalized(vector, kind), kind) == pytest.approx(1)
    assert (normalized(np.zeros(2, np.float32), 2) == 0).all()
