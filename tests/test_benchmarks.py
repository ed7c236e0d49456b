"""The parts of the benchmarks that can be wrong without anybody noticing: the files they write, what they read."""

import dataclasses
import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest
from benchmark_modules import benchmark_modules

from llmrun.quant_formats.formats import FORMATS
from llmrun.quant_formats.gguf_file import GGUFFile
from llmrun.runner.loader import load_model
from llmrun.runner.prompt_logits import prompt_logits
from llmrun.runner.tokenizer import Tokenizer

MODULES = ("case", "llama_bench", "plot", "random_gguf")


@pytest.fixture(scope="module")
def bench() -> Iterator[SimpleNamespace]:
    with benchmark_modules(*MODULES) as modules:
        yield modules


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def small(request: pytest.FixtureRequest, bench: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A file of a small shape."""
    shape = bench.random_gguf.Shape("small", 8, 256, 512, 4, 2, 64, tied=request.param, n_vocab=300, n_ctx=128)
    path = tmp_path_factory.mktemp("shapes") / "small.gguf"
    bench.random_gguf.write_random_gguf(path, shape)
    return path


def test_file_is_what_the_format_s_own_package_reads(small: Path) -> None:
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(small).tensors}
    with GGUFFile.open(small) as ours:
        assert set(theirs) == set(ours.tensors)
        for name, tensor in ours.tensors.items():
            assert (theirs[name].data.reshape(-1).view(np.uint8) == tensor.data).all(), name


def test_weights_are_of_a_usual_size(small: Path) -> None:
    with GGUFFile.open(small) as file:
        for name, tensor in file.tensors.items():
            weights = tensor.format.dequantize(tensor.data)
            if len(tensor.shape) > 1:
                assert 0.02 < weights.std() < 0.05, name
                assert abs(weights.mean()) < 0.003, name


def test_file_runs(small: Path) -> None:
    with GGUFFile.open(small) as file:
        tokenizer = Tokenizer.from_gguf(file.metadata)
        model = load_model(file, 1)
    tokens = tokenizer.encode("the end")
    assert tokenizer.decode(tokens) == "the end"
    model.allocate_kv(1)
    logits = np.concatenate([chunk.copy() for chunk in prompt_logits(model, tokens)])
    model.close()
    assert logits.shape == (len(tokens), 300)
    assert np.isfinite(logits).all()
    assert logits.std() > 0.1


def test_layers_with_more_bits(bench: SimpleNamespace) -> None:
    formats = {name: format for name, _, format in bench.random_gguf.SHAPES["1b"].tensors()}
    important = [i for i in range(16) if formats[f"blk.{i}.ffn_down.weight"] == "Q6_K"]
    assert important == [0, 1, 4, 7, 10, 13, 14, 15]
    assert important == [i for i in range(16) if formats[f"blk.{i}.attn_v.weight"] == "Q6_K"]
    assert formats["token_embd.weight"] == "Q6_K"
    assert "output.weight" not in formats


@pytest.mark.parametrize("format", [f for f in FORMATS.values() if f.block_size > 1], ids=lambda f: f.name)
def test_random_blocks_of_every_format(bench: SimpleNamespace, format: Any) -> None:
    weights = format.dequantize(bench.random_gguf.random_blocks(format, 2000).reshape(-1))
    assert np.isfinite(weights).all()
    assert 0.02 < weights.std() < 0.05


RESULT = """\
[
  {
    "build_commit": "0123abc",
    "build_number": 42,
    "avg_ts": 150.0,
    "samples_ns": [ 10, 5 ],
    "samples_ts": [ 100.5, 200.25 ]
  }
]
"""


@pytest.mark.parametrize("noise", ["", "{ not json }\n", "loading [model]\n{\n"])
def test_result_of_llama_bench(bench: SimpleNamespace, noise: str) -> None:
    output = RESULT.replace("[\n  {", f"[\n{noise}  {{")
    (test,) = bench.llama_bench.tests(output)
    assert test["samples_ts"] == [100.5, 200.25]


def test_several_results_of_llama_bench(bench: SimpleNamespace) -> None:
    one = RESULT.strip()[1:-1].strip()
    assert len(bench.llama_bench.tests(f"[\n  {one},\n  {one}\n]\n")) == 2


def test_no_result_of_llama_bench(bench: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match="no result"):
        bench.llama_bench.tests("[\n\n]\n")


@pytest.mark.parametrize(
    ("help_text", "option"),
    [
        ("  -pg <pp,tg>  (default: )\n  -d, --n-depth <n>  (default: 0)\n", "-d"),
        ("  -pg <pp,tg>  (default: )\n  -gp <pp,tg>  (default: )\n", "-gp"),
        ("  -pg <pp,tg>  (default: )\n  --depth-of-nothing  -dev\n", None),
    ],
)
def test_depth_option(bench: SimpleNamespace, help_text: str, option: str | None) -> None:
    assert bench.llama_bench.depth_option(help_text) == option


def test_llama_bench_is_asked_for_a_case(bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def output(command: list[str]) -> str:
        asked.append(" ".join(command))
        return "  -gp <pp,tg>  (default: )\n" if "--help" in command else RESULT

    monkeypatch.setattr(bench.llama_bench, "_output", output)
    runner = bench.llama_bench.LlamaBench.from_option("ik -rtr=program -rtr 1", Path("model.gguf"), 2)
    prefill, empty, deep, many = bench.case.cases(512, 64, [0, 2048], 16)
    assert [runner.can(case) for case in (prefill, empty, deep, many)] == [True, True, True, False]
    assert [runner.speed(case) for case in (prefill, empty, deep)] == [200.25] * 3
    every = "program -rtr 1 -m model.gguf -t 2 -o json"
    assert asked == [
        "program --help",
        f"{every} -p 512 -n 0 -r 2",
        f"{every} -p 0 -n 64 -r 2",
        f"{every} -p 0 -n 0 -gp 2048,64 -r 1",
    ]
    assert (runner.name, runner.about) == ("ik -rtr", "llama-bench build 42 (0123abc) -rtr 1")


def test_option_that_is_no_program(bench: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match="NAME=PATH"):
        bench.llama_bench.LlamaBench.from_option("llama-bench", Path("model.gguf"), 2)


def test_plot_is_an_image_of_every_speed(bench: SimpleNamespace) -> None:
    wanted = bench.case.cases(512, 64, [0, 2048], 16)
    speeds = {"llmrun": [3.0, 1.5, 2.0], "a & b": [1.25]}
    cases = [{"case": dataclasses.asdict(case), "speeds": speeds} for case in wanted]
    result = json.loads(json.dumps({"model": "<model>", "threads": 2, "cases": cases}))
    texts = [element.text for element in ET.fromstring(bench.plot.svg([result, result])).iter() if element.text]
    assert texts.count("<model>, 2 threads") == 2
    assert texts.count("a & b") == 1
    assert texts.count("2.0") == 2 * len(wanted)
    assert texts.count("1.2") == 2 * len(wanted)
