"""Imports go one way, heavy libraries stay in their layer, and nothing heavy is imported before it is needed."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What each folder may import of the others.
MAY_IMPORT = {
    "quant_formats": set(),
    "cpu_kernels": {"quant_formats"},
    "gpu_kernels": {"quant_formats"},
    "hotcold": {"quant_formats"},
    "runner": {"quant_formats", "cpu_kernels", "gpu_kernels", "hotcold"},
    "cli": {"quant_formats", "cpu_kernels", "gpu_kernels", "hotcold", "runner"},
}

# The only folders that may import these.
HOME = {
    "numba": {"cpu_kernels"},
    "llvmlite": {"cpu_kernels"},
    "torch": {"gpu_kernels"},
    "triton": {"gpu_kernels"},
    "typer": {"cli"},
    "rich": {"cli"},
    "prompt_toolkit": {"cli"},
}

files = pytest.mark.parametrize(
    "path",
    [path for folder in MAY_IMPORT for path in sorted((ROOT / folder).rglob("*.py"))],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)


def imports(path: Path) -> Iterator[str]:
    """Go through the full names of the modules that a file imports anywhere."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: import by the full name, llmrun.<folder>.<file>"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@files
def test_imports_go_one_way(path: Path) -> None:
    folder = path.relative_to(ROOT).parts[0]
    for name in imports(path):
        first, *rest = name.split(".")
        assert first not in MAY_IMPORT, f"{name}: its name is llmrun.{name}, the bare one makes a second copy"
        if first == "llmrun":
            assert rest, "import a folder of llmrun, not llmrun"
            assert rest[0] in MAY_IMPORT[folder] | {folder}, f"{folder} may not import {name}"


@files
def test_libraries_stay_in_their_layer(path: Path) -> None:
    folder = path.relative_to(ROOT).parts[0]
    for name in imports(path):
        library = name.split(".")[0]
        assert folder in HOME.get(library, {folder}), f"{folder} may not import {library}"


def test_the_reader_starts_light() -> None:
    code = "import sys, llmrun.quant_formats.gguf_file; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not (HOME.keys() | {"gguf", "tokenizers", "jinja2"}) & set(loaded)


def test_a_warm_start_imports_no_compiler():
    """Numba takes longer to import than a small model to load; only the process that compiles needs it."""
    code = (
        "import sys, llmrun.runner.engine, llmrun.runner.cpu_model, llmrun.runner.loader; print('numba' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
