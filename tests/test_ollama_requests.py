"""What Ollama's requests mean and its replies look like, without a server."""

import datetime
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mock_model import ByteTokenizer
from pydantic import ValidationError

from llmrun.cli.server.ollama_chat import CallCollector
from llmrun.cli.server.ollama_details import can_think, parameter_size, tagged
from llmrun.cli.server.ollama_message import chat_messages, chat_tools
from llmrun.cli.server.ollama_options import OllamaOptions
from llmrun.cli.server.ollama_reply import chat_part, done, generate_part, line, logprob_entries, metrics, now
from llmrun.cli.server.ollama_request import ChatBody, GenerateBody, MessageBody, ToolBody
from llmrun.cli.server.ollama_template import render_template
from llmrun.quant_formats.errors import UsageError
from llmrun.runner.piece import Piece, TokenLogprobs
from llmrun.runner.sampler import SamplingParams
from llmrun.runner.stats import Stats
from llmrun.runner.tool import ToolCallDelta


def options(**values: Any) -> OllamaOptions:
    return OllamaOptions.model_validate(values)


def test_options_become_sampling_parameters() -> None:
    given_all = options(
        temperature=0.5, top_k=7.0, top_p=0.8, min_p=0.1, seed=3, num_predict=9, stop=["a", "b"], repeat_penalty=1.2,
        repeat_last_n=-1, presence_penalty=0.3, frequency_penalty=0.4, num_ctx=100,
    )  # fmt: skip
    assert given_all.sampling(logprobs=2) == SamplingParams(
        temperature=0.5, top_k=7, top_p=0.8, min_p=0.1, seed=3, max_tokens=9, stop=("a", "b"), repeat_penalty=1.2,
        penalty_last_n=-1, presence_penalty=0.3, frequency_penalty=0.4, logprobs=2,
    )  # fmt: skip


def test_what_is_left_out_or_means_nothing_has_the_default() -> None:
    hardware = options(
        num_gpu=99, num_thread=2, use_mmap=True, use_mlock=False, num_batch=512, low_vram=False, numa=False, main_gpu=0,
        f16_kv=True, num_keep=4, logits_all=False,
    )  # fmt: skip
    neutral = options(
        mirostat=0, mirostat_tau=5.0, typical_p=1, tfs_z=1.0, seed=-1, num_predict=-1, penalize_newline=True, stop=None
    )
    for given_ones in (options(), hardware, neutral, options(num_predict=-2), options(penalize_newline=False)):
        assert given_ones.sampling() == SamplingParams()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mirostat", 2),
        ("typical_p", 0.7),
        ("tfs_z", 0.5),
        ("vocab_only", True),
        ("num_predict", 0),
        ("num_predict", -3),
        ("temperature", -1.0),
        ("top_p", 0.0),
        ("seed", -2),
        ("stop", ""),
    ],
)
def test_an_option_that_cannot_be_followed_is_named(name: str, value: Any) -> None:
    shown = {"num_predict": "num_predict", "stop": "stop"}.get(name, name)
    with pytest.raises(UsageError, match=shown):
        options(**{name: value}).sampling()


@pytest.mark.parametrize("values", [{"nonsense": 1}, {"top_k": "40"}, {"num_ctx": 0}, {"temperature": math.nan}])
def test_an_option_of_another_kind_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        options(**values)


def test_newlines_cannot_be_left_out_of_penalties() -> None:
    with pytest.raises(UsageError, match="penalize_newline"):
        options(penalize_newline=False, repeat_penalty=1.1).sampling()


def test_unknown_fields_are_refused_and_null_ones_are_left_out() -> None:
    body = ChatBody.model_validate({"model": "m", "think": None, "options": None, "tools": None, "keep_alive": -1})
    assert body.streams
    assert body.n_logprobs is None
    assert body.grammar is None
    with pytest.raises(ValidationError, match="frmat"):
        GenerateBody.model_validate({"model": "m", "frmat": "json"})


def test_formats() -> None:
    schema = {"type": "object", "properties": {"b": {}, "a": {}}}
    body = GenerateBody.model_validate({"model": "m", "format": schema, "logprobs": True, "top_logprobs": 3})
    assert body.grammar is not None
    assert list(json.loads(body.grammar.source)["properties"]) == ["b", "a"]  # their order is that of the answer
    assert body.n_logprobs == 3
    assert GenerateBody.model_validate({"model": "m", "format": ""}).grammar is None
    with pytest.raises(UsageError, match="format"):
        _ = GenerateBody.model_validate({"model": "m", "format": "xml"}).grammar


def messages(*values: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    return chat_messages([MessageBody.model_validate(value) for value in values])


def test_messages_keep_thoughts_and_match_results_with_calls() -> None:
    def call(name: str, **arguments: Any) -> dict[str, Any]:
        return {"function": {"name": name, "arguments": arguments}}

    conversation = (
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "thinking": "hm", "tool_calls": [call("now", city="Oslo"), call("soon")]},
        {"role": "tool", "tool_name": "soon", "content": "rain"},
        {"role": "tool", "content": "sun"},
        {"role": "assistant", "content": "Sun.", "tool_calls": [call("now") | {"id": "mine"}]},
        {"role": "tool", "tool_call_id": "mine", "content": "fog"},
    )
    translated = messages(*conversation)
    first, second = (one["id"] for one in translated[1]["tool_calls"])
    assert translated[1]["content"] == ""
    assert translated[1]["reasoning_content"] == "hm"
    assert translated[1]["tool_calls"][0]["function"] == {"name": "now", "arguments": {"city": "Oslo"}}
    assert translated[2] == {"role": "tool", "content": "rain", "tool_call_id": second, "name": "soon"}
    assert translated[3] == {"role": "tool", "content": "sun", "tool_call_id": first, "name": "now"}
    assert translated[5]["tool_call_id"] == "mine"
    assert messages(*conversation) == translated  # ids too, so that the next turn finds its prompt computed


def test_images_are_refused() -> None:
    with pytest.raises(UsageError, match=r"messages\[0\].images"):
        messages({"role": "user", "content": "?", "images": ["aGk="]})


def test_tools() -> None:
    tool = {"type": "function", "function": {"name": "f", "description": None, "parameters": None}}
    [translated] = chat_tools([ToolBody.model_validate(tool)])
    assert (translated.name, translated.description) == ("f", "")
    assert translated.schema["type"] == "object"


def test_calls_are_sent_whole() -> None:
    collector = CallCollector()
    deltas = [
        ToolCallDelta(0, "call_a", "f", ""), ToolCallDelta(0, arguments='{"x"'), ToolCallDelta(0, arguments=": 1}"),
        ToolCallDelta(1, "call_b", "g", "{}"),
    ]  # fmt: skip
    assert [collector.add(delta) for delta in deltas] == [
        [],
        [],
        [],
        [{"id": "call_a", "function": {"index": 0, "name": "f", "arguments": {"x": 1}}}],
    ]
    assert [call["function"]["name"] for call in collector.finish()] == ["g"]
    assert collector.finish() == []


def test_lines() -> None:
    stats = Stats(n_prompt=5, n_cached=2, n_generated=3, t_prefill=0.25, t_decode=0.5)
    last = done(chat_part("m", "Hé\u2028", "hm"), "stop", metrics(stats, load=0.001, total=1.0))
    written = line(last)
    assert written.endswith(b"}\n")
    assert len(written.decode().splitlines()) == 1, "clients split at all that Python calls a line end"
    read = json.loads(written)
    assert read["message"] == {"role": "assistant", "content": "Hé\u2028", "thinking": "hm"}
    assert (read["done"], read["done_reason"], read["eval_count"]) == (True, "stop", 3)
    assert (read["total_duration"], read["load_duration"], read["prompt_eval_duration"]) == (10**9, 10**6, 250_000_000)
    assert "thinking" not in generate_part("m", "x")
    assert datetime.datetime.fromisoformat(now()).tzinfo is not None


def test_log_probabilities() -> None:
    scored = Piece(0xC3, "", TokenLogprobs(-0.5, ((0xC3, -0.5), (ord("a"), -1.0))))
    [entry] = logprob_entries([scored, Piece(65, "A")], ByteTokenizer())  # type: ignore[arg-type]
    assert entry["bytes"] == [0xC3]
    assert [top["token"] for top in entry["top_logprobs"]] == ["\ufffd", "a"]


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        ("{{ .System }}|{{ .Prompt }}|", "S|P|"),
        ("{{ if .System }}<{{ .System }}>{{ end }}{{ .Prompt }}{{ .Response }}<end>", "<S>P"),
        ("a {{- if .Suffix }} no {{- else }} yes {{ end -}} b", "a yes b"),
        ("{{ if .Suffix }}1{{ else if .Prompt }}2{{ else }}3{{ end }}", "2"),
        ("{{/* a comment */}}{{.Prompt}}", "P"),
        ("{{ if .Suffix }}{{ .Response }}{{ end }}x", "x"),
        ("no action {", "no action {"),
    ],
)
def test_templates(template: str, prompt: str) -> None:
    assert render_template(template, {"System": "S", "Prompt": "P"}) == prompt


@pytest.mark.parametrize(
    "template",
    [
        "{{ if .Prompt }}",
        "{{ end }}",
        "{{ else }}",
        "{{ range .Messages }}{{ end }}",
        "{{ .Nothing }}",
        "{{ if eq .Prompt 1 }}{{ end }}",
        "{{ }}",
    ],
)
def test_templates_that_ask_for_more_are_refused(template: str) -> None:
    with pytest.raises(UsageError, match="template"):
        render_template(template, {"Prompt": "P"})


@given(st.text(alphabet="{}-. ifelsndPromt/*", max_size=60))
def test_any_template_renders_or_is_refused(template: str) -> None:
    try:
        render_template(template, {"Prompt": "P"})
    except UsageError as error:
        assert "template" in str(error)  # noqa: PT017 - not raising is as good


def test_names_and_sizes() -> None:
    assert [tagged(name) for name in ("smollm2", "gemma3:270m")] == ["smollm2:latest", "gemma3:270m"]
    assert [parameter_size(n) for n in (134_515_008, 3_212_749_888, 999)] == ["134.52M", "3.2B", "999"]
    assert can_think("{% if enable_thinking %}")
    assert not can_think("{{ messages }}")
