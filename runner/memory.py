"""How much memory this machine has left, asked before it is used up."""

import ctypes
import subprocess
import sys
from pathlib import Path

from llmrun.quant_formats.errors import OutOfMemory

WORK_BYTES = 128 << 20  # activations, logits, kernels and the interpreter itself


def check_memory(weight_bytes: int, kv_bytes: int) -> None:
    """Raise OutOfMemory, with the numbers, if a model does not fit into what is available."""
    available = available_memory()
    needed = weight_bytes + kv_bytes + WORK_BYTES
    if needed > available:
        raise OutOfMemory(
            f"the model needs {_human(needed)} of memory (weights {_human(weight_bytes)}, context {_human(kv_bytes)}) "
            f"and {_human(available)} are available; close other programs, or take a smaller model or context"
        )


def available_memory() -> int:
    """Bytes that can be used without swapping, caches that the system would drop included.

    Sources: /proc/meminfo and the control group on Linux, `vm_stat` on macOS, GlobalMemoryStatusEx on Windows.
    """
    if sys.platform == "win32":
        return _available_on_windows()
    if sys.platform == "darwin":
        return _available_on_macos()
    return min(_available_on_linux(Path("/proc/meminfo")), _left_in_group(Path("/sys/fs/cgroup")))


def _available_on_linux(meminfo: Path) -> int:
    for line in meminfo.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("kernels since 3.14 report MemAvailable")


def _left_in_group(group: Path) -> int:
    """Bytes below the limit of a container (cgroup version 2), or more than any machine has."""
    unlimited = sys.maxsize
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except OSError:  # the root group, version 1 or no such file system: there is no limit to read
        return unlimited
    if limit == "max":
        return unlimited
    return max(0, int(limit) - used + int(stat["inactive_file"]) + int(stat["active_file"]))


def _available_on_macos() -> int:
    lines = subprocess.run(["vm_stat"], capture_output=True, text=True, check=True).stdout.splitlines()
    page_size = int(lines[0].split("page size of ")[1].split()[0])
    pages = dict(line.split(":", 1) for line in lines[1:] if ":" in line)
    kinds = ("Pages free", "Pages inactive", "Pages speculative", "Pages purgeable")
    return page_size * sum(int(pages[kind].strip(" .")) for kind in kinds)


class _MemoryStatus(ctypes.Structure):
    """MEMORYSTATUSEX of the Windows API."""

    _fields_ = (
        ("length", ctypes.c_uint32),
        ("load", ctypes.c_uint32),
        ("physical", ctypes.c_uint64),
        ("available", ctypes.c_uint64),
        *((name, ctypes.c_uint64) for name in ("page", "free_page", "virtual", "free_virtual", "extended")),
    )


def _available_on_windows() -> int:
    status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
    kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined]
    if not kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        raise ctypes.WinError(ctypes.get_last_error())  # type: ignore[attr-defined]
    return int(status.available)


def _human(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.0f} MiB"
