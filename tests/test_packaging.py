"""What a plain install gets, and what the repository promises about itself."""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this repository, built from a copy so that no build folder is left in it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    names = [*PROJECT["tool"]["setuptools"]["package-dir"].values()]
    names += ["pyproject.toml", "models.toml", "README.md", "LICENSE"]
    for name in names:
        for path in [ROOT / name] if (ROOT / name).is_file() else sorted((ROOT / name).rglob("*.py")):
            target = source / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "."]
    subprocess.run([*command, "--wheel-dir", str(folder)], cwd=source, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_everything_under_one_name(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.split("/")[0] for name in names}
    assert tops == {"llmrun", f"llmrun-{PROJECT['project']['version']}.dist-info"}
    for folder in PROJECT["tool"]["setuptools"]["package-dir"].values():
        files = {f"llmrun/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / folder).rglob("*.py")}
        assert files <= names, f"{folder}/ is not whole; list its subfolders in pyproject.toml"
    assert "llmrun/models.toml" in names


def test_the_installed_package_finds_its_models(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = (
        "import sys; sys.meta_path = [f for f in sys.meta_path if 'editable' not in str(f).lower()]\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "import llmrun.runner.registry as r; print(r.__file__); print(*r.entries())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    file, names = done.stdout.splitlines()
    assert os.path.realpath(file).startswith(os.path.realpath(tmp_path))
    assert "smollm2" in names.split()


def test_a_plain_install_pulls_no_torch() -> None:
    assert not [name for name in PROJECT["project"]["dependencies"] if name.startswith(("torch", "triton"))]


def test_the_command_line_reference_is_current() -> None:
    from llmrun.cli.reference import reference

    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert page == reference(), "run: python -m llmrun.cli.reference > docs/cli.md"


def test_ci_runs_what_the_readme_says() -> None:
    command = "pip install -e '.[test]' && pytest"
    assert command in (ROOT / "README.md").read_text(encoding="utf-8")
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert command in script.splitlines()
