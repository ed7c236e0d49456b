"""What editors and chat front ends send, replayed: each request as its client writes it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from server import serving

MODEL = "smollm2:latest"


@pytest.fixture(scope="module")
def http(smollm2_path: Path) -> Iterator[httpx.Client]:
    with serving({"smollm2": smollm2_path}) as url, httpx.Client(base_url=url, timeout=60) as http:
        yield http


def ok(reply: httpx.Response) -> Any:
    assert reply.status_code == 200, reply.text
    return reply.json() if reply.headers["content-type"] == "application/json" else reply.text


def test_continue(http: httpx.Client) -> None:
    shown = ok(http.post("/api/show", json={"name": "smollm2"}))
    for line in shown["parameters"].split("\n"):
        name, value = line.split()
        if name == "num_ctx":
            assert int(value) == 8192
    options = {
        "temperature": 0.01,
        "num_predict": 4,
        "stop": ["\n\n"],
        "num_ctx": 8192,
        "num_thread": 2,
        "use_mmap": True,
    }
    body = {"model": MODEL, "prompt": "x", "options": options, "keep_alive": 1800, "raw": True, "stream": True}
    assert '"done":true' in ok(http.post("/api/generate", json=body))
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "options": options, "keep_alive": 1800}
    assert ok(http.post("/api/chat", json=body | {"stream": False}))["message"]["role"] == "assistant"
    llama = {"prompt": "x", "stream": True, "n_predict": 4, "stop": ["\n\n"], "top_k": 40, "top_p": 0.9, "mirostat": 0}
    assert '"stop":true' in ok(http.post("/completion", json=llama, headers={"Authorization": "Bearer undefined"}))


def test_zed(http: httpx.Client) -> None:
    [model] = [model for model in ok(http.get("/api/tags"))["models"] if model["name"] == MODEL]
    assert {"name", "modified_at", "size", "digest", "details"} <= set(model)
    assert set(model["details"]) >= {"format", "family", "families", "parameter_size", "quantization_level"}
    assert "completion" in ok(http.post("/api/show", json={"model": MODEL}))["capabilities"]
    body = {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello.", "tool_calls": None, "thinking": None},
            {"role": "user", "content": "Bye"},
        ],
        "stream": True,
        "keep_alive": -1,
        "options": {"num_ctx": 4096, "num_predict": 4, "stop": [], "temperature": 1.0, "top_p": None},
        "tools": [],
        "think": None,
    }
    assert '"done":true' in ok(http.post("/api/chat", json=body))


def test_vs_code(http: httpx.Client) -> None:
    assert tuple(map(int, ok(http.get("/api/version"))["version"].split("."))) >= (0, 6, 4)
    model = ok(http.get("/api/tags"))["models"][0]["model"]
    info = ok(http.post("/api/show", json={"model": model}))["model_info"]
    assert info["general.basename"]
    assert info[f"{info['general.architecture']}.context_length"] == 8192


def test_llama_vscode(http: httpx.Client) -> None:
    extra = [{"text": "a = 1\n", "filename": "a.py", "time": 1.0}]
    usual = {"cache_prompt": True, "t_max_prompt_ms": 500}
    warm_up = {"input_prefix": "", "input_suffix": "", "input_extra": extra, "prompt": "", "n_predict": 0}
    writing = {
        "input_prefix": "x",
        "input_suffix": "y",
        "input_extra": extra,
        "prompt": "z",
        "n_predict": 4,
        "n_indent": 4,
    }
    sampled = {
        "top_k": 40,
        "top_p": 0.99,
        "stream": False,
        "samplers": ["top_k", "top_p", "infill"],
        "t_max_predict_ms": 2500,
    }
    for body in (warm_up | usual | {"samplers": [], "t_max_predict_ms": 1}, writing | usual | sampled):
        reply = http.post("/infill", json=body)
        assert reply.status_code == 400, "all fields are known"
        assert "cannot fill in" in reply.json()["error"]["message"]  # this model has no tokens for it
    assert ok(http.get("/health")) == {"status": "ok"}
    assert "chat_template" in ok(http.get("/props"))


def test_aider(http: httpx.Client) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    http.post("/api/generate", json={"model": MODEL})
    for num_ctx in (8192, 9216, 8449):
        body = {
            "model": MODEL,
            "messages": messages,
            "options": {"num_ctx": num_ctx, "num_predict": 4},
            "stream": False,
        }
        assert ok(http.post("/api/chat", json=body))["load_duration"] < 100_000_000


def test_open_webui(http: httpx.Client) -> None:
    assert ok(http.get("/api/version"))["version"]
    assert any(":" in model["model"] for model in ok(http.get("/api/tags"))["models"])
    assert "models" in ok(http.get("/api/ps"))
    body = {
        "model": MODEL,
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "", "tool_calls": [
                {"index": 0, "id": "call_1", "type": "function", "function": {"name": "now", "arguments": {}}}
            ]},
            {"role": "tool", "tool_call_id": "call_1", "content": "noon"},
        ],
        "options": {"temperature": 0.7, "num_ctx": 2048, "num_predict": 4, "num_gpu": 999, "num_thread": 4},
        "keep_alive": "5m",
        "stream": True,
    }  # fmt: skip
    lines = ok(http.post("/api/chat", json=body)).removesuffix("\n").split("\n")
    assert '"done":true' in lines[-1]
