"""The `llm` command line (simonw/llm), as its users set it up for a server of their own."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
from server import serving

MODELS = """
- model_id: chat
  model_name: smollm2
  api_base: {url}/v1
  supports_schema: true
  supports_tools: true
- model_id: text
  model_name: smollm2
  api_base: {url}/v1
  completion: true
"""


@pytest.fixture(scope="module")
def folder(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("llm")
    with serving({"smollm2": smollm2_path}) as url:
        (folder / "extra-openai-models.yaml").write_text(MODELS.format(url=url))
        yield folder


def llm(folder: Path, *arguments: str, stdin: str = "") -> str:
    """What the command prints."""
    environment = {**os.environ, "LLM_USER_PATH": str(folder), "OPENAI_API_KEY": "none"}
    command = [sys.executable, "-m", "llm", *arguments]
    done = subprocess.run(
        command, env=environment, input=stdin, capture_output=True, text=True, encoding="utf-8", timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("stream", [[], ["--no-stream"]])
def test_a_prompt(folder: Path, stream: list[str]) -> None:
    assert llm(folder, "-m", "chat", "-o", "temperature", "0", "Hi", *stream) == "Hello! How can I assist you today?\n"


def test_all_its_options(folder: Path) -> None:
    options = {
        "temperature": "0", "max_tokens": "3", "top_p": "0.9", "frequency_penalty": "0.1", "presence_penalty": "0.1",
        "stop": "xyz", "logit_bias": '{"1": -100}', "seed": "1", "json_object": "0",
    }  # fmt: skip
    arguments = [word for name, value in options.items() for word in ("-o", name, value)]
    assert llm(folder, "-m", "chat", *arguments, "Hi") == "Hello! How\n"


def test_a_pipe_and_a_system_prompt(folder: Path) -> None:
    said = llm(
        folder, "-m", "chat", "-s", "Answer in one word.", "-o", "max_tokens", "8", "the sky?", stdin="Colour of"
    )
    assert said.strip()


def test_a_conversation_goes_on(folder: Path) -> None:
    llm(folder, "-m", "chat", "-o", "temperature", "0", "-o", "max_tokens", "20", "My name is Ada.")
    assert llm(folder, "-c", "-o", "temperature", "0", "-o", "max_tokens", "20", "What is my name?").strip()
    logged = json.loads(llm(folder, "logs", "--json", "-n", "1"))[0]
    assert logged["input_tokens"] > 40  # it has the first turn
    assert logged["output_tokens"] > 0


def test_a_schema(folder: Path) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["n"],
        "additionalProperties": False,  # or the model goes on with properties until it has no tokens left
    }
    options = ("-o", "max_tokens", "60", "-o", "temperature", "0")
    said = llm(folder, "-m", "chat", "--schema", json.dumps(schema), *options, "How many legs has a cat?")
    jsonschema.validate(json.loads(said), schema)


def test_a_tool_is_offered(folder: Path) -> None:
    assert llm(
        folder, "-m", "chat", "-T", "llm_version", "-o", "max_tokens", "30", "-o", "temperature", "0", "Hi"
    ).strip()


def test_a_text_is_completed(folder: Path) -> None:
    assert "Paris" in llm(folder, "-m", "text", "-o", "temperature", "0", "The capital of France is")
