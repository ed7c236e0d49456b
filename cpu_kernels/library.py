"""The compiled kernels of this processor: kept in the user's cache folder, compiled when missing, loaded without Numba.

A cache folder belongs to one set of sources, one version of the compilers and one processor; any change begins a new
one. `LLMRUN_CACHE` moves it.
"""

import ctypes
import hashlib
import importlib.metadata
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from llmrun.cpu_kernels.isa import Isa
from llmrun.cpu_kernels.kernel_file import read_kernel
from llmrun.cpu_kernels.unused_caches import mark_used, remove_unused
from llmrun.quant_formats.errors import KernelError

Progress = Callable[[str, float, float], None]
"""Called with what is being done, how much of it is done, and how much there is."""

_KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)


class KernelLibrary:
    """Loads kernels by name and hands out their addresses."""

    def __init__(self, isa: Isa, folder: Path | None = None):
        self.isa = isa
        self.folder = (folder or cache_folder()) / cache_key(isa)
        self._addresses: dict[str, int] = {}
        self._engines: list[object] = []  # keep the code alive

    def load(self, names: Iterable[str], progress: Progress | None = None) -> None:
        """Make kernels ready, compiling those that the cache does not hold."""
        wanted = [name for name in dict.fromkeys(names) if name not in self._addresses]
        mark_used(self.folder)
        code = self._read(wanted)
        missing = [name for name in wanted if name not in code]
        if missing:
            self._compile(missing, progress)
            code |= self._read(missing)
            remove_unused(self.folder.parent)  # now, because a new version begins by compiling
        if wanted:
            self._link({name: code[name] for name in wanted})

    def address(self, name: str) -> int:
        """Where a loaded kernel is."""
        return self._addresses[name]

    def function(self, name: str) -> Callable[[int, int, int], None]:
        """A loaded kernel as a function; it runs without the interpreter lock."""
        return _KERNEL(self._addresses[name])

    def _read(self, names: list[str]) -> dict[str, bytes]:
        """The object code of those kernels that the cache holds."""
        try:
            found = {name: read_kernel(self.folder / f"{name}.kernel") for name in names}
        except OSError as error:
            raise self._unusable(error) from error
        return {name: code for name, code in found.items() if code is not None}

    def _unusable(self, error: OSError) -> KernelError:
        reason = error.strerror or error
        return KernelError(f"cannot use the kernel cache {self.folder}: {reason}; set LLMRUN_CACHE to another folder")

    def _compile(self, names: list[str], progress: Progress | None) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unusable(error) from error
        workers = min(len(names), os.cpu_count() or 1, 4)
        processes = [_start_compiler(self.isa, self.folder, names[i::workers]) for i in range(workers)]
        finished = _Counter(len(names), progress)
        readers = [threading.Thread(target=finished.read, args=(process,), daemon=True) for process in processes]
        try:
            for reader in readers:
                reader.start()
            for reader in readers:
                reader.join()
        except BaseException:
            for process in processes:
                process.kill()
            raise
        finally:
            errors = [(process.communicate()[1], process.returncode) for process in processes]
        for text, code in errors:
            if code:
                reason = text.strip().splitlines()[-1] if text.strip() else f"the compiler ended with status {code}"
                raise KernelError(
                    f"cannot compile kernels for {self.isa.name}: {reason}; "
                    "`llmrun bench MODEL --isa portable` tells whether those for any processor compile here"
                )

    def _link(self, code: dict[str, bytes]) -> None:
        import llvmlite.binding as llvm

        from llmrun.cpu_kernels.target import symbol, target_machine

        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target_machine(self.isa))
        for kernel in code.values():
            engine.add_object_file(llvm.ObjectFileRef.from_data(kernel))
        engine.finalize_object()
        self._engines.append(engine)
        for name in code:
            self._addresses[name] = engine.get_function_address(symbol(name))


class _Counter:
    """Counts the kernels that the compilers report."""

    def __init__(self, total: int, progress: Progress | None):
        self.total, self.progress, self.done, self.lock = total, progress, 0, threading.Lock()
        self._show()

    def read(self, process: subprocess.Popen) -> None:
        assert process.stdout is not None
        for _ in iter(process.stdout.readline, ""):
            with self.lock:
                self.done += 1
                self._show()

    def _show(self) -> None:
        if self.progress:
            self.progress("compiling kernels for this processor (once)", self.done, self.total)


def _start_compiler(isa: Isa, folder: Path, names: list[str]) -> subprocess.Popen:
    command = [sys.executable, "-m", "llmrun.cpu_kernels.compile", isa.name, str(folder), *names]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def cache_folder() -> Path:
    """Where compiled kernels are kept."""
    if moved := os.environ.get("LLMRUN_CACHE"):
        return Path(moved)
    import platformdirs

    return Path(platformdirs.user_cache_dir("llmrun", appauthor=False)) / "kernels"


def cache_key(isa: Isa) -> str:
    """Names what compiled code depends on: sources, compilers, interpreter, processor, instruction set."""
    import llvmlite.binding as llvm

    from llmrun.cpu_kernels.host_features import host_features

    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    for package in ("numba", "llvmlite"):
        digest.update(importlib.metadata.version(package).encode())
    processor = llvm.get_host_cpu_name(), sorted(host_features())
    digest.update(repr((sys.version_info[:3], processor)).encode())
    return f"{isa.name}-{digest.hexdigest()[:16]}"
