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
CALLED: dict[str, Any] = {"model": {"const": MODEL}, "name": {"const": MODEL}}
PLAUSIBLE: dict[str, Any] = CALLED | {
    "temperature": {"enum": [0, 0.5, 2]}, "top_p": {"enum": [0.1, 1]}, "min_p": {"enum": [0, 0.1]},
    "top_k": {"enum": [0, 1, 40]}, "seed": {"enum": [0, 1 << 63]}, "repeat_penalty": {"enum": [1, 1.5]},
    "repetition_penalty": {"type": "null"}, "repeat_last_n": {"enum": [-1, 0, 64]},
    "frequency_penalty": {"enum": [0, 1.5]}, "presence_penalty": {"enum": [0, -2]}, "logit_bias": {"enum": [{}, {"5": -100}]},
    "max_tokens": {"enum": [1, 5, 20]}, "max_completion_tokens": {"type": "null"}, "num_predict": {"enum": [-1, 5]},
    "n_predict": {"enum": [-1, 0, 5]}, "n": {"enum": [1, 2]}, "best_of": {"enum": [2, 3]}, "num_ctx": {"enum": [100, 9999]},
    "keep_alive": {"enum": ["5m", -1, 30]}, "dimensions": {"type": "null"}, "stop": {"enum": [["a"], ["\n", "\u00e9"]]},
    "grammar": {"enum": ['root ::= "a"', None]}, "guided_regex": {"enum": ["[a-z]{3}", None]}, "guided_json": {"type": "null"},
    "guided_grammar": {"type": "null"}, "guided_choice": {"type": "null"}, "json_schema": {"enum": [{"type": "object"}, None]},
    "previous_response_id": {"type": "null"}, "encoding_format": {"enum": ["float", "base64"]}, "suffix": {"type": "null"},
    "reasoning_effort": {"enum": ["none", None]}, "priority": {"enum": [-1, 5]}, "chat_template_kwargs": {"enum": [{}, {"a": 1}]},
    "format": {"enum": ["json", None]}, "images": {"type": "null"}, "template": {"type": "null"},
}  # fmt: skip
"""Values that make sense, some of the time."""
OPERATIONS = [(method.upper(), path) for path, methods in PAGE["paths"].items() for method in methods]


def with_values(values: dict[str, Any]) -> Any:
    """The page with narrower values for the members of these names: made up ones are mostly refused at once."""
    page = copy.deepcopy(PAGE)
    for schema in page["components"]["schemas"].values():
        properties = schema.get("properties", {})
        properties |= {name: value for name, value in values.items() if name in properties}
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
