"""llama-server's API over HTTP, from a real model: completions, tokens, properties, and filling in."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from server import serving

from llmrun.runner import fill_in
from llmrun.runner.model_host import HostOptions

MODEL = "smollm2"
N_CTX = 512
MARKERS = ("<jupyter_start>", "<jupyter_text>", "<jupyter_code>")
"""Special tokens that the model has and that stand for those of a model that can fill in."""


@pytest.fixture(scope="module")
def http(smollm2_path: Path) -> Iterator[httpx.Client]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fill_in, "_FAMILIES", (MARKERS,))
        with (
            serving({MODEL: smollm2_path}, HostOptions(n_ctx=N_CTX)) as url,
            httpx.Client(base_url=url, timeout=60) as http,
        ):
            yield http


def post(http: httpx.Client, path: str, **fields: Any) -> Any:
    reply = http.post(path, json=fields)
    assert reply.status_code == 200, reply.text
    return reply.json()


def complete(http: httpx.Client, prompt: Any = "The sky is", **fields: Any) -> Any:
    return post(http, "/completion", **{"prompt": prompt, "temperature": 0, "n_predict": 8, **fields})


def events(http: httpx.Client, path: str, **fields: Any) -> list[dict[str, Any]]:
    reply = http.post(path, json={"stream": True, **fields})
    assert reply.headers["content-type"].startswith("text/event-stream")
    lines = reply.text.split("\n\n")
    assert lines.pop() == ""
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def test_completes_whole_and_streamed_the_same(http: httpx.Client) -> None:
    whole = complete(http, return_tokens=True)
    assert (whole["stop_type"], whole["stopping_word"], whole["truncated"]) == ("limit", "", False)
    assert (whole["tokens_evaluated"], whole["tokens_predicted"], len(whole["tokens"])) == (3, 8, 8)
    assert post(http, "/detokenize", tokens=whole["tokens"])["content"] == whole["content"]
    parts = events(http, "/completion", prompt="The sky is", temperature=0, n_predict=8, timings_per_token=True)
    assert "".join(part["content"] for part in parts) == whole["content"]
    assert [token for part in parts for token in part["tokens"]] == whole["tokens"]
    assert [part["stop"] for part in parts] == [False] * (len(parts) - 1) + [True]
    assert all("predicted_per_second" in part["timings"] for part in parts)


def test_prompts_of_ids_and_several(http: httpx.Client) -> None:
    text = complete(http)
    ids = post(http, "/tokenize", content="The sky is")["tokens"]
    assert complete(http, ids)["content"] == text["content"]
    assert complete(http, [ids[0], " sky is"])["content"] == text["content"]
    both = complete(http, ["The sky is", ids[:1]])
    assert [reply["index"] for reply in both] == [0, 1]
    assert both[0]["content"] == text["content"]
    streamed = events(http, "/completion", prompt=["The sky is", "The"], temperature=0, n_predict=8)
    assert "".join(part["content"] for part in streamed if part["index"] == 0) == text["content"]
    assert sum(part["stop"] for part in streamed) == 2


def test_a_known_prompt_is_not_computed_again(http: httpx.Client) -> None:
    prompt = "Once upon a time there was a sea. " * 12
    first = complete(http, prompt, n_predict=0)
    assert (first["content"], first["tokens_predicted"], first["stop_type"]) == ("", 0, "limit")
    second = complete(http, prompt, id_slot=0, cache_prompt=True)
    assert second["tokens_cached"] >= 64
    assert second["timings"]["prompt_n"] + second["timings"]["cache_n"] == second["tokens_evaluated"]


def test_ends_and_says_how(http: httpx.Client) -> None:
    said = complete(http, n_predict=20)["content"]
    word = said.split()[2]
    stopped = complete(http, n_predict=20, stop=[word])
    assert (stopped["stop_type"], stopped["stopping_word"]) == ("word", word)
    assert stopped["content"] == said[: said.index(word)]
    prompt = post(http, "/apply-template", messages=[{"role": "user", "content": "Hi"}])["prompt"]
    assert complete(http, prompt, n_predict=-1)["stop_type"] == "eos"
    assert complete(http, prompt, n_predict=14, ignore_eos=True)["tokens_predicted"] == 14
    lines = "def f(x):\n    y = x\n    z = y\n    return"
    indented = complete(http, lines, n_predict=24, n_indent=4)
    assert all(line.startswith("    ") or not line.strip() for line in indented["content"].split("\n")[1:])
    assert complete(http, lines, n_predict=100, ignore_eos=True, t_max_predict_ms=1)["tokens_predicted"] < 100


def test_probabilities_and_biases(http: httpx.Client) -> None:
    reply = complete(http, n_probs=3, return_tokens=True)
    entries = reply["completion_probabilities"]
    assert [entry["id"] for entry in entries] == reply["tokens"]
    assert [len(entry["top_logprobs"]) for entry in entries] == [3] * 8
    first = entries[0]
    assert first["top_logprobs"][0]["id"] == first["id"]
    assert bytes(first["bytes"]).decode() == first["token"]
    banned = complete(http, logit_bias=[[first["id"], False]], return_tokens=True)
    assert banned["tokens"][0] == first["top_logprobs"][1]["id"]


def test_forms(http: httpx.Client) -> None:
    schema: Any = {
        "type": "object",
        "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 9}},
        "additionalProperties": False,
        "required": ["a"],
    }
    jsonschema.validate(json.loads(complete(http, json_schema=schema, n_predict=50)["content"]), schema)
    assert complete(http, grammar='root ::= " blue" | " red"')["content"] in (" blue", " red")


def test_only_the_fields_that_are_wanted(http: httpx.Client) -> None:
    reply = complete(http, response_fields=["content", "generation_settings/temperature", "timings/prompt_n", "x"])
    assert list(reply) == ["content", "temperature", "prompt_n"]


def test_tokens_and_pieces(http: httpx.Client) -> None:
    tokens = post(http, "/tokenize", content="Hello <|im_end|>")["tokens"]
    assert tokens[-1] == 2
    assert len(post(http, "/tokenize", content="<|im_end|>", parse_special=False)["tokens"]) > 1
    pieces = post(http, "/tokenize", content="🜚", with_pieces=True)["tokens"]
    assert all(isinstance(piece["piece"], list) for piece in pieces), "bytes that are no characters"
    assert bytes(byte for piece in pieces for byte in piece["piece"]).decode() == "🜚"
    assert post(http, "/detokenize", tokens=tokens)["content"] == "Hello <|im_end|>"


def test_applies_the_template(http: httpx.Client) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
    ]
    prompt = post(http, "/apply-template", messages=messages)["prompt"]
    assert prompt == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    open_end = post(http, "/apply-template", messages=messages, add_generation_prompt=False)["prompt"]
    assert prompt.startswith(open_end)


def test_says_what_it_is(http: httpx.Client) -> None:
    props = http.get("/props").json()
    assert props["default_generation_settings"]["n_ctx"] == N_CTX
    assert "im_start" in props["chat_template"]
    assert "/" not in props["model_path"], "nothing of the machine"
    slots = http.get("/slots").json()
    assert len(slots) == props["total_slots"]
    assert not any(slot["is_processing"] for slot in slots)
    assert http.get("/props", params={"model": "nothing"}).status_code == 404


def test_embeds(http: httpx.Client) -> None:
    [entry] = post(http, "/embedding", content="The sky")
    [vector] = entry["embedding"]
    assert sum(x * x for x in vector) == pytest.approx(1, abs=1e-5)
    several = post(http, "/embedding", content=["The sky", "sea"], embd_normalize=-1)
    assert [row["index"] for row in several] == [0, 1]
    assert sum(x * x for x in several[0]["embedding"][0]) > 2


def test_too_long_prompts_are_refused_in_numbers(http: httpx.Client) -> None:
    reply = http.post("/completion", json={"prompt": [5] * 2000})
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert (error["code"], error["type"]) == (400, "exceed_context_size_error")
    assert (error["n_prompt_tokens"], error["n_ctx"]) == (2000, N_CTX)


@pytest.mark.parametrize(
    ("path", "fields", "status", "named"),
    [
        ("/completion", {}, 400, "prompt"),
        ("/completion", {"prompt": "x", "nonsense": 1}, 400, "nonsense"),
        ("/completion", {"prompt": "x", "mirostat": 2}, 400, "mirostat"),
        ("/completion", {"prompt": [10**9]}, 400, "vocabulary"),
        ("/completion", {"prompt": "x", "model": "../x"}, 404, "not here"),
        ("/completion", {"prompt": "x", "grammar": "root ::= ("}, 400, "grammar"),
        ("/infill", {"input_prefix": "x", "prompt": [1]}, 400, "prompt"),
        ("/infill", {"input_extra": [{"filename": "x"}]}, 400, "text"),
        ("/detokenize", {"tokens": [-1]}, 400, "vocabulary"),
        ("/tokenize", {"content": 1}, 400, "content"),
        ("/apply-template", {"messages": []}, 400, "messages"),
        ("/embedding", {}, 400, "content"),
        ("/embedding", {"content": "x", "encoding_format": "base64"}, 400, "encoding_format"),
        ("/rerank", {"query": "x"}, 501, "rerank"),
        ("/slots/0?action=save", {}, 501, "slots"),
        ("/slots/0?action=dance", {}, 400, "action"),
        ("/props", {}, 501, "cannot be changed"),
    ],
)
def test_errors_say_what_is_wrong(
    http: httpx.Client, path: str, fields: dict[str, Any], status: int, named: str
) -> None:
    reply = http.post(path, json=fields)
    assert reply.status_code == status
    error = reply.json()["error"]
    assert error["code"] == status
    assert named in error["message"].lower()


PREFIX, SUFFIX = "def area(r):\n    return ", "\n\nprint(area(2))\n"


def test_fills_in(http: httpx.Client) -> None:
    reply = post(http, "/infill", input_prefix=PREFIX, input_suffix=SUFFIX, prompt="3.14", temperature=0, n_predict=8)
    start, text, code = MARKERS
    assert reply["prompt"] == f"{start}{PREFIX}3.14{text}{SUFFIX}{code}"
    assert "left_out" not in reply
    same = post(
        http, "/completion", prompt=reply["prompt"], temperature=0, n_predict=8, stop=list(MARKERS), return_tokens=True
    )
    assert reply["content"] == same["content"]
    long = post(http, "/infill", input_prefix="x = 1\n" * 2000, input_suffix=SUFFIX, n_predict=1)
    assert long["left_out"]["prefix_tokens"] > 0
    assert long["tokens_evaluated"] < N_CTX


def test_ollama_fills_in_too(http: httpx.Client) -> None:
    shown = post(http, "/api/show", name=MODEL)
    assert "insert" in shown["capabilities"]
    assert ".Suffix" in shown["template"]
    fields: Any = {"model": MODEL, "prompt": PREFIX, "stream": False, "options": {"num_predict": 4, "temperature": 0}}
    filled = post(http, "/api/generate", suffix=SUFFIX, **fields)
    infilled = post(http, "/infill", input_prefix=PREFIX, input_suffix=SUFFIX, temperature=0, n_predict=4)
    assert filled["response"] == infilled["content"]
    too_long = {**fields, "prompt": "x = 1\n" * 2000, "suffix": SUFFIX}
    refused = http.post("/api/generate", json=too_long)
    assert refused.status_code == 400
    assert "truncate" in refused.json()["error"]
    assert post(http, "/api/generate", **too_long, truncate=True)["done"]
