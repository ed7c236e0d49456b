"""The kernels for ARM: their assembly, made on any machine, and what their small matrices compute."""

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import arm_compiler
import numpy as np
import pytest
from kernel_runner import FORMAT_NAMES

from llmrun.cpu_kernels import host_features, isa
from llmrun.cpu_kernels.byte_matrices import matrix_sums, row_pairs

ISAS = ("dotprod", "i8mm")
QUANTISED = [name for name in FORMAT_NAMES if name.startswith("Q")]
OTHERS = {  # the two differ in matrix products only
    "dotprod": ["matmul-F16", "attention-64", "norm", "run", "rope"],
    "i8mm": [
        "attention-64-q8_0",
        "attention-64-q4_0",
        "merge-64-q4_0",
        "quantise",
        "rope-q8_0",
        "rope-q4_0",
        "gated-silu",
    ],
}
GROUP_SDOTS = 16  # of one column: 32 weights of 8 rows, 16 products an instruction


@dataclass(frozen=True)
class Loop:
    """The instructions of an innermost loop."""

    instructions: list[str]

    def count(self, name: str) -> int:
        """How often an instruction is there."""
        return Counter(line.split()[0] for line in self.instructions)[name]


@dataclass(frozen=True)
class Compiled:
    """What became of the kernels of one instruction set."""

    folder: Path

    def assembly(self, kernel: str) -> str:
        return (self.folder / f"{kernel}.s").read_text()

    def loops(self, kernel: str) -> Iterator[Loop]:
        """Those that consist of one block."""
        for block in re.split(r"^(?=[.\w$]+:)", self.assembly(kernel), flags=re.M):
            label, _, body = block.partition(":")
            lines = [line.split("//")[0].strip() for line in body.splitlines()]
            lines = [line for line in lines if line and not line.startswith(".")]
            ends = [
                i for i, line in enumerate(lines) if re.fullmatch(rf"(b|cb|tb)\S*\s+(.*\s)?{re.escape(label)}", line)
            ]
            if ends:
                yield Loop(lines[: ends[-1] + 1])


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Compiled]:
    """All kernels of both instruction sets, compiled side by side."""
    results, processes = {}, []
    for name in ISAS:
        folder = tmp_path_factory.mktemp(name)
        kernels = [f"matmul-{format}" for format in QUANTISED] + OTHERS[name]
        command = [sys.executable, arm_compiler.__file__, name, str(folder), *kernels]
        processes.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        results[name] = Compiled(folder)
    for process in processes:
        errors = process.communicate()[1]
        assert process.returncode == 0, errors
    return results


@pytest.mark.parametrize("format", QUANTISED)
@pytest.mark.parametrize("name", ISAS)
def test_products_of_few_columns_are_dot_products(compiled: dict[str, Compiled], name: str, format: str) -> None:
    groups = 8 if format.endswith("_K") else 1
    loops = list(compiled[name].loops(f"matmul-{format}"))
    for columns in (1, 2):
        expected = GROUP_SDOTS * columns * groups
        assert any(loop.count("sdot") == expected and not loop.count("smmla") for loop in loops), columns


@pytest.mark.parametrize("format", QUANTISED)
def test_wide_products_are_dot_products(compiled: dict[str, Compiled], format: str) -> None:
    loops = list(compiled["dotprod"].loops(f"matmul-{format}"))
    assert min(len(loop.instructions) for loop in loops if loop.count("sdot") == 4 * GROUP_SDOTS) <= 180
    assert "smmla" not in compiled["dotprod"].assembly(f"matmul-{format}")


@pytest.mark.parametrize("format", QUANTISED)
def test_wide_products_are_products_of_matrices(compiled: dict[str, Compiled], format: str) -> None:
    loops = [loop for loop in compiled["i8mm"].loops(f"matmul-{format}") if not loop.count("sdot")]
    assert min(len(loop.instructions) for loop in loops if loop.count("smmla") == 2 * GROUP_SDOTS) <= 170


@pytest.mark.parametrize("name", ISAS)
def test_no_product_of_bytes_is_taken_apart(compiled: dict[str, Compiled], name: str) -> None:
    for path in compiled[name].folder.glob("*.s"):
        multiplied = re.findall(r"^\s(?:mul|mla|mls|[su]mull?2?|[su]mlal2?)\s+v.*$", path.read_text(), flags=re.M)
        assert not multiplied, (path.name, multiplied[0])


@pytest.mark.parametrize("name", ISAS)
def test_nothing_of_another_processor_or_library_is_used(compiled: dict[str, Compiled], name: str) -> None:
    for path in compiled[name].folder.glob("*.ll"):
        code = path.read_text()
        assert f'target triple = "{arm_compiler.TRIPLE}"' in code, path.name
        assert "x86" not in code, path.name
        assembly = path.with_suffix(".s").read_text()
        assert not re.search(r"\bbl\s+__", assembly), path.name  # functions of a compiler's run-time library


@pytest.mark.parametrize("kv", ["q8_0", "q4_0"])
def test_attention_multiplies_bytes(compiled: dict[str, Compiled], kv: str) -> None:
    loops = list(compiled["i8mm"].loops(f"attention-64-{kv}"))
    for columns in (1, 2, 3, 4):  # scores: 32 dimensions of 8 tokens, two bytes of the query
        assert any(loop.count("sdot") == 2 * GROUP_SDOTS * columns for loop in loops), columns


def test_halfs_are_converted_by_the_processor(compiled: dict[str, Compiled]) -> None:
    for kernel in ("attention-64", "matmul-F16"):
        assert any(loop.count("fcvtl") and loop.count("fmla") for loop in compiled["dotprod"].loops(kernel)), kernel
    assert re.search(r"\sfcvtn?\s+[hv]", compiled["dotprod"].assembly("rope"))


def test_waiting_threads_pause(compiled: dict[str, Compiled]) -> None:
    assert re.search(r"\sisb\s", compiled["dotprod"].assembly("run"))


class NumpyEmitter:
    """What `byte_matrices.py` asks of an emitter, computed at once."""

    lanes = 8

    def bitcast(self, v: np.ndarray, element: object, lanes: int) -> np.ndarray:
        return v.view({"i8": np.int8, "i32": np.int32}[str(element)])[:lanes]

    def shuffle(self, a: np.ndarray, b: np.ndarray, lanes: Sequence[int]) -> np.ndarray:
        return np.concatenate([a, b])[list(lanes)]

    def pieces(self, v: np.ndarray, lanes: int) -> list[np.ndarray]:
        return list(v.reshape(-1, lanes))

    def joined(self, pieces: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate(pieces)

    def matrix_dot(self, acc: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Multiply as smmla does."""
        rows, columns = (v.astype(np.int32).reshape(2, 8) for v in (a, b))
        total: np.ndarray = acc + (rows @ columns.T).reshape(4)
        return total


@dataclass(frozen=True)
class NumpyRecord:
    """The bytes of four columns, (4, 32) int8."""

    quants: np.ndarray
    columns: int = 4

    def sixteen_bytes(self, t: int, half: int) -> np.ndarray:
        return self.quants[t, 16 * half : 16 * half + 16]


@pytest.mark.parametrize("half", [0, 1])
def test_small_matrices_sum_up_to_the_product(half: int) -> None:
    rng = np.random.default_rng(half)
    weights, quants = (rng.integers(-128, 128, (n, 32), dtype=np.int8) for n in (8, 4))
    starts = rng.integers(-1000, 1000, (4, 1), dtype=np.int32)
    words = weights.reshape(8, 8, 4).swapaxes(0, 1).reshape(8, 32)
    emitter: Any = NumpyEmitter()
    record: Any = NumpyRecord(quants)

    def pairs(i: int) -> Any:
        first, second = words[2 * i : 2 * i + 2]
        return row_pairs(emitter, first, second)

    sums: Any = matrix_sums(emitter, pairs, record, half, list(starts.repeat(8, axis=1)))
    part = slice(16 * half, 16 * half + 16)
    assert (np.stack(sums) == starts + quants[:, part].astype(int) @ weights[:, part].astype(int).T).all()


def test_the_best_instruction_set_of_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    for features, expected in (({"neon"}, []), ({"dotprod"}, ["dotprod"]), ({"dotprod", "i8mm"}, ["i8mm", "dotprod"])):
        monkeypatch.setattr(host_features, "host_features", lambda features=features: features)
        assert isa.supported() == [*expected, "portable"]
        assert isa.choose().name == isa.supported()[0]


def test_features_that_all_processors_of_a_machine_have() -> None:
    big, little = "Features\t: fp asimd asimddp i8mm\n", "Features\t: fp asimd asimddp\n"
    assert host_features.arm_features(big + big) == {"dotprod", "i8mm"}
    assert host_features.arm_features(f"processor\t: 0\n{big}\nprocessor\t: 1\n{little}") == {"dotprod"}
    assert host_features.arm_features("model name : something else\n") == set()
