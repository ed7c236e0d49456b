"""Requests that are made up from our own OpenAPI page, right ones and wrong ones: none may break the server."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from quick_engine import quick_engine
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from server import serving

from llmrun.cli.server.app import make_app
from llmrun.runner.model_host import HostOptions, ModelHost

MODEL = "tiny"
EXAMPLES = 20  # of each operation
PAGE: dict[str, Any] = make_app(ModelHost()).openapi()
NEEDED = {"model", "prompt", "content", "input"}
CALLED: dict[str, list[Any]] = {"model": [MODEL], "name": [MODEL]}
LEFT_OUT = (
    "repetition_penalty", "max_completion_tokens", "dimensions", "guided_json", "guided_grammar", "guided_choice",
    "effort", "think", "thinking", "reasoning", "images", "template", "suffix", "previous_response_id",
    "stream_options",
)  # fmt: skip
PLAUSIBLE: dict[str, list[Any]] = CALLED | {name: [None] for name in LEFT_OUT} | {
    "prompt": ["Hello", "é {"], "content": ["Hello", "é {"], "input": ["Hello", ["a", "b"]], "system": ["Hello"],
    "temperature": [0, 0.5, 2], "top_p": [0.1, 1], "min_p": [0, 0.1], "top_k": [0, 1, 40], "seed": [0, 1 << 63],
    "repeat_penalty": [1, 2], "repeat_last_n": [-1, 0, 64], "frequency_penalty": [0, 2], "presence_penalty": [0, -2],
    "logit_bias": [{}, {"5": -100}], "ignore_eos": [True, False], "stop": [["a"], ["\n", "é"]],
    "max_tokens": [1, 5, 20], "max_output_tokens": [1, 9], "num_predict": [-1, 5], "n_predict": [-1, 0, 5],
    "num_ctx": [100, 9999], "n": [1, 2], "best_of": [2, 3], "priority": [-1, 5], "keep_alive": ["5m", -1, 30],
    "encoding_format": ["float", None], "grammar": ['root ::= "a"', None], "guided_regex": ["[a-z]{3}", None],
    "json_schema": [{"type": "object"}, None], "format": ["json", None], "reasoning_effort": ["none", None],
    "chat_template_kwargs": [{}, {"a": 1}],
}  # fmt: skip
"""Values that make sense, some of the time."""
OPERATIONS = [(method.upper(), path) for path, methods in PAGE["paths"].items() for method in methods]


def with_values(values: dict[str, list[Any]]) -> Any:
    """The page with narrower values for the members of these names: made up ones are mostly refused at once."""
    page = copy.deepcopy(PAGE)
    for schema in page["components"]["schemas"].values():
        properties = schema.get("properties", {})
        properties |= {name: {"enum": choices} for name, choices in values.items() if name in properties}
        schema["required"] = sorted({*schema.get("required", []), *(NEEDED & properties.keys())})
    return schemathesis.openapi.from_dict(page)


@pytest.fixture(scope="module")
def url(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMRUN_HOME", str(tmp_path_factory.mktemp("home")))  # for what is deleted and fetched
        with serving({MODEL: smollm2_path}, HostOptions(n_ctx=256), load=quick_engine) as url:
            yield url


@pytest.fixture(scope="module")
def schemas() -> list[Any]:
    return [with_values(CALLED), with_values(PLAUSIBLE)]


def test_the_page_is_served(url: str) -> None:
    assert httpx.get(f"{url}/openapi.json", timeout=60).json() == PAGE


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_nothing_breaks_the_server(method: str, path: str, schemas: list[Any], url: str) -> None:
    any_values, plausible = (schema[path][method] for schema in schemas)
    right, wrong = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
    cases = [any_values.as_strategy(generation_mode=mode) for mode in (right, wrong)]
    cases += [plausible.as_strategy(generation_mode=right)] * 2

    @seed(20)
    @settings(
        max_examples=EXAMPLES, database=None, deadline=None, phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=st.one_of(cases))
    def check(case: Any) -> None:
        case.call_and_validate(base_url=url, checks=[not_a_server_error], timeout=30)

    check()
