"""The cache of compiled kernels: filled once, keyed, repaired when damaged, and clear about what it cannot do."""

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from kernel_runner import count

from llmrun.cpu_kernels import isa as isa_module
from llmrun.cpu_kernels import library as library_module
from llmrun.cpu_kernels import op, unused_caches
from llmrun.cpu_kernels.fields import NORM
from llmrun.cpu_kernels.isa import ISAS, choose, supported
from llmrun.cpu_kernels.library import KernelLibrary, cache_folder, cache_key
from llmrun.cpu_kernels.team import Team
from llmrun.quant_formats.errors import KernelError

NAMES = ["send", "run", "work", "norm"]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of this module's own, filled from nothing."""
    folder = tmp_path_factory.mktemp("cache")
    KernelLibrary(choose(), folder / "new").load(NAMES)
    return folder / "new"


@pytest.fixture
def cache(filled: Path, tmp_path: Path) -> Path:
    return shutil.copytree(filled, tmp_path / "cache")


def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(library_module, "_start_compiler", fail)


def works(library: KernelLibrary) -> None:
    """Run the kernels that were loaded."""
    team, x, out = Team(library, 2), np.full((2, 16), 2, np.float32), np.zeros((2, 16), np.float32)
    n_tokens, weight = count(2), np.ones(16, np.float32)
    values = dict.fromkeys(NORM._fields, 0) | {  # type: ignore[attr-defined]
        "n_tokens": n_tokens.ctypes.data, "x": x.ctypes.data, "x_stride": 64, "weight": weight.ctypes.data, "n": 16,
        "out": out.ctypes.data, "out_stride": 64,
    }  # fmt: skip
    program = np.zeros((1, op.RECORD_WORDS), np.int64)
    program[0, op.KERNEL] = library.address("norm")
    program[0, op.FIRST_FIELD : op.FIRST_FIELD + len(values)] = list(values.values())
    team.run(program)
    team.close()
    assert (out == 1).all()


def test_a_filled_cache_needs_no_compiler(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_compiler(monkeypatch)
    library = KernelLibrary(choose(), cache)
    library.load(NAMES)
    library.load(NAMES)
    works(library)


def test_progress_counts_what_is_compiled(cache: Path) -> None:
    for name in ("norm", "run"):
        (cache / cache_key(choose()) / f"{name}.kernel").unlink()
    seen: list[tuple[float, float]] = []
    KernelLibrary(choose(), cache).load(NAMES, lambda _what, done, total: seen.append((done, total)))
    assert seen == [(0, 2), (1, 2), (2, 2)]


@pytest.mark.parametrize("damage", ["empty", "half", "a byte less", "a byte more", "a bit", "text", "zeros"])
def test_a_damaged_file_is_compiled_again(cache: Path, damage: str) -> None:
    path = cache / cache_key(choose()) / "norm.kernel"
    data = path.read_bytes()
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 4
    path.write_bytes(
        {
            "empty": b"", "half": data[: len(data) // 2], "a byte less": data[:-1], "a byte more": data + b"\0",
            "a bit": bytes(flipped), "text": b"not a kernel", "zeros": bytes(len(data)),
        }[damage]
    )  # fmt: skip
    library = KernelLibrary(choose(), cache)
    library.load(NAMES)
    works(library)


def test_the_key_names_what_the_code_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    import llvmlite.binding as llvm

    keys = {cache_key(isa) for isa in ISAS.values()}
    assert len(keys) == len(ISAS)
    before = cache_key(choose())
    assert before == cache_key(choose())
    with monkeypatch.context() as patch:
        patch.setattr(library_module.importlib.metadata, "version", lambda name: f"{name} of tomorrow")
        assert cache_key(choose()) != before
    with monkeypatch.context() as patch:
        patch.setattr(llvm, "get_host_cpu_name", lambda: "another")
        assert cache_key(choose()) != before
    with monkeypatch.context() as patch:
        patch.setattr(llvm, "get_host_cpu_features", lambda: {"sse2": True})
        assert cache_key(choose()) != before


def test_the_folder_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMRUN_CACHE", str(tmp_path / "elsewhere"))
    assert cache_folder() == tmp_path / "elsewhere"
    assert KernelLibrary(choose()).folder.parent == tmp_path / "elsewhere"


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(KernelError, match=r"cannot use the kernel cache .*set LLMRUN_CACHE"):
        KernelLibrary(choose(), tmp_path / "file").load(["send"])


def test_a_compiler_that_fails(cache: Path) -> None:
    with pytest.raises(KernelError, match=r"cannot compile kernels for .*nonsense"):
        KernelLibrary(choose(), cache).load(["nonsense"])


def test_a_compiler_that_dies(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess
    import sys

    def start(*_arguments: object) -> subprocess.Popen:
        command = [sys.executable, "-c", "import os; os._exit(3)"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    monkeypatch.setattr(library_module, "_start_compiler", start)
    with pytest.raises(KernelError, match="ended with status 3"):
        KernelLibrary(choose(), cache).load(["rope"])


def test_instruction_sets_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KernelError, match="unknown instruction set 'mmx'; choose one of"):
        choose("mmx")
    assert choose("portable").name == "portable"
    assert choose().name == supported()[0]
    monkeypatch.setattr(isa_module, "supported", lambda: ["portable"])
    with pytest.raises(KernelError, match="this processor has no avx2; it can run portable"):
        choose("avx2")
    assert choose().name == "portable"


def aged(folder: Path, days: float) -> Path:
    """A cache folder that was used last so long ago."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "norm.kernel").write_bytes(b"old")
    then = time.time() - days * 86400
    os.utime(folder, (then, then))
    return folder


def test_what_nobody_used_for_a_month_goes_when_something_is_compiled(cache: Path) -> None:
    own = cache / cache_key(choose())
    (own / "norm.kernel").unlink()
    os.utime(own, (0, 0))
    old, recent = aged(cache / f"avx2-{'a' * 16}", 31), aged(cache / f"portable-{'b' * 16}", 29)
    half_deleted, foreign = aged(cache / f"avx2-{'c' * 16}.123.unused", 31), aged(cache / "pictures", 400)
    KernelLibrary(choose(), cache).load(NAMES)
    assert [path.exists() for path in (own, old, recent, half_deleted, foreign)] == [True, False, True, False, True]
    assert (own / "send.kernel").exists()


def test_loading_marks_a_folder_as_used(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_compiler(monkeypatch)
    own = cache / cache_key(choose())
    os.utime(own, (0, 0))
    KernelLibrary(choose(), cache).load(["send"])
    assert time.time() - own.stat().st_mtime < 3600


def test_a_folder_that_is_used_while_it_is_being_deleted_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = aged(tmp_path / f"avx2-{'a' * 16}", 31)
    rename = Path.rename

    def used_before(path: Path, target: Path) -> Path:
        os.utime(path)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", used_before)
    unused_caches.remove_unused(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    assert (folder / "norm.kernel").read_bytes() == b"old"
