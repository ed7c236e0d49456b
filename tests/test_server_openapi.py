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
from llmrun.cli.server.page import make_page
from llmrun.runner.model_host import HostOptions, ModelHost

MODEL = "tiny"
EXAMPLES = 12  # of each operation and kind
PAGE: dict[str, Any] = make_page(make_app(ModelHost()))
OPERATIONS = [(method.upper(), path) for path, methods in PAGE["paths"].items() for method in methods]


def with_model(page: dict[str, Any]) -> dict[str, Any]:
    """The page as it is for a server with one model: a name that is made up would never get further than a 404."""
    page = copy.deepcopy(page)
    for schema in page["components"]["schemas"].values():
        if "model" in schema.get("properties", {}):
            schema["properties"]["model"] = {"const": MODEL}
    return page


@pytest.fixture(scope="module")
def url(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMRUN_HOME", str(tmp_path_factory.mktemp("home")))  # for what is deleted and fetched
        with serving({MODEL: smollm2_path}, HostOptions(n_ctx=256), load=quick_engine) as url:
            yield url


@pytest.fixture(scope="module")
def schema() -> Any:
    return schemathesis.openapi.from_dict(with_model(PAGE))


def test_the_page_is_served(url: str) -> None:
    assert httpx.get(f"{url}/openapi.json", timeout=60).json() == PAGE


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_nothing_breaks_the_server(method: str, path: str, schema: Any, url: str) -> None:
    operation = schema[path][method]

    @seed(20)
    @settings(
        max_examples=EXAMPLES, database=None, deadline=None, phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in GenerationMode)))
    def check(case: Any) -> None:
        case.call_and_validate(base_url=url, checks=[not_a_server_error], timeout=30)

    check()
