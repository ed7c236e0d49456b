"""What the server counts and what it logs."""

import asyncio
import json
import logging
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from framed_server import framed
from mock_model import MockModel, mock_engine
from prometheus_client.parser import text_string_to_metric_families

from llmrun.cli.server.logs import _Formatter, log, logfmt
from llmrun.cli.server.metrics import Metrics
from llmrun.cli.server.serve_options import ServeOptions
from llmrun.runner.engine import Engine
from llmrun.runner.model_host import HostOptions, ModelHost
from llmrun.runner.model_plan import ModelPlan
from llmrun.runner.sampler import SamplingParams


def numbers(page: str) -> dict[tuple[str, ...], float]:
    """Every sample of a page, by its name and the values of its labels."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def test_requests_are_counted_by_route_and_status() -> None:
    with framed() as server:
        for path in ("/health", "/health", "/v1/t-raise/queue", "/v1/made-up-1", "/v1/made-up-2"):
            server.ask("GET", path)
        server.ask("POST", "/v1/t-echo", {"text": "x"})
        server.ask("POST", "/v1/t-echo", {"text": 1})
        server.ask("BREW", "/v1/t-echo")
        status, page, answer = server.ask("GET", "/metrics")
    assert status == 200
    assert answer.getheader("content-type", "").startswith("text/plain; version=0.0.4")
    found = numbers(page)
    name = "llmrun_requests_total"
    assert found[(name, "GET", "/health", "200")] == 2
    assert found[(name, "GET", "/v1/t-raise/{name}", "503")] == 1
    assert found[(name, "GET", "none", "404")] == 2  # whoever makes up paths does not make up series
    assert found[(name, "POST", "/v1/t-echo", "200")] == found[(name, "POST", "/v1/t-echo", "400")] == 1
    assert sum(value for key, value in found.items() if key[:2] == (name, "other")) == 1
    assert found[("llmrun_request_seconds_count", "/health")] == 2


def test_metrics_can_be_left_out() -> None:
    with framed(ServeOptions(metrics=False, grace=0)) as server:
        assert server.ask("GET", "/metrics")[0] == 404


def test_what_models_compute_is_counted(tmp_path: Path) -> None:
    def load(_path: Path, plan: ModelPlan, _options: HostOptions) -> Engine:
        return mock_engine(MockModel(), n_ctx=plan.n_ctx)

    async def test() -> dict[tuple[str, ...], float]:
        (tmp_path / "m.gguf").write_bytes(b"GGUF")
        plan = ModelPlan(1, 1000, 1024, 1)
        async with ModelHost({"m": tmp_path / "m.gguf"}, load=load, plan=lambda *_: plan) as host:
            metrics, other = Metrics(host), Metrics(ModelHost())
            host.observer = metrics.observer
            async with host.use("m") as model:
                for _ in range(2):
                    params = SamplingParams(temperature=0, max_tokens=5)
                    stream = model.engine_thread.submit(list(range(200)), params)
                    _ = [pieces async for pieces in stream]
                assert b"m" not in other.page()[0].split()
                return numbers(metrics.page()[0].decode())

    found = asyncio.run(test())
    assert found[("llmrun_answers_total", "m", "length")] == 2
    assert found[("llmrun_prompt_tokens_total", "m")] == 400
    assert found[("llmrun_cached_prompt_tokens_total", "m")] >= 192
    assert found[("llmrun_generated_tokens_total", "m")] == 10
    assert found[("llmrun_time_to_first_token_seconds_count", "m")] == 2
    assert found[("llmrun_time_per_token_seconds_count", "m")] == 2
    assert found[("llmrun_kv_blocks", "m")] == 16
    assert found[("llmrun_kv_blocks_used", "m")] == 0
    assert found[("llmrun_kv_blocks_kept", "m")] >= 3
    assert found[("llmrun_requests_running", "m")] == found[("llmrun_requests_waiting", "m")] == 0


class Lines(logging.Handler):
    """The log as it would be written."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(_Formatter())
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def lines() -> Iterator[list[str]]:
    handler = Lines()
    before = log.level
    log.addHandler(handler)
    log.setLevel("DEBUG")
    yield handler.lines
    log.setLevel(before)
    log.removeHandler(handler)


def facts(line: str) -> dict[str, str]:
    """The pairs of a line; values in quotes are JSON texts."""
    return dict(pair.split("=", 1) for pair in shlex.split(line, posix=True))


def test_a_line_for_each_request_without_what_was_said(lines: list[str]) -> None:
    with framed() as server:
        _, _, answer = server.ask("POST", "/v1/t-echo", {"text": "a secret prompt"})
        server.ask("GET", "/v1/t-raise/corrupt")
        server.ask("GET", "/v1/x%0Alevel=error%20event=forged%1b[31m")
        server.ask("GET", "/v1/t-raise/bug")
    first, refused, second, third, failed, fourth = lines
    assert "secret prompt" not in "".join(lines)
    got = facts(first)
    assert got["request"] == answer.getheader("x-request-id")
    assert (got["event"], got["method"], got["path"], got["status"]) == ("request", "POST", "/v1/t-echo", "200")
    assert (got["model"], got["prompt_tokens"], got["level"]) == ("m", "15", "info")
    assert float(got["ms"]) >= 0
    assert "secret.gguf" in refused  # the owner of the machine is told what the client is not
    assert facts(second)["status"] == "500"
    assert facts(third)["level"] == "info"
    assert "\n" not in third
    assert "\x1b" not in third
    assert "ZeroDivisionError" in failed
    assert "\n" not in failed
    assert facts(fourth)["request"] == facts(failed)["request"]


def test_prompts_are_logged_if_the_owner_wants_it(lines: list[str]) -> None:
    with framed(ServeOptions(log_prompts=True, grace=0)) as server:
        server.ask("POST", "/v1/t-echo", {"text": 'tell me "this"'})
    (line,) = lines
    assert "tell me" in line
    assert line.count("this") == 2  # asked and answered
    assert "\n" not in line


@pytest.mark.parametrize(
    "value", ["plain", 'quo"te', "sp ace", "new\nline", "a=b", "", "ünï", "\x1b[31m", "\\", 5, 1.25]
)
def test_lines_can_be_read_back(value: Any) -> None:
    line = logfmt({"key": value})
    assert line.isprintable()
    written = line.removeprefix("key=")
    shown = f"{value:.1f}" if isinstance(value, float) else str(value)
    assert (json.loads(written) if written.startswith('"') else written) == shown
