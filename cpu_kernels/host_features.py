"""What the processor in front of us can do, by LLVM's names of features."""

import ctypes
import platform
import sys
from pathlib import Path

_LINUX = {"asimddp": "dotprod", "i8mm": "i8mm"}
_MACOS = {b"hw.optional.arm.FEAT_DotProd": "dotprod", b"hw.optional.arm.FEAT_I8MM": "i8mm"}
_WINDOWS = {43: "dotprod", 66: "i8mm"}  # PF_ARM_V82_DP_..., PF_ARM_V82_I8MM_INSTRUCTIONS_AVAILABLE of winnt.h


def host_features() -> set[str]:
    """LLVM's list, and on ARM the products of bytes: LLVM does not ask there for them, so the system is asked."""
    import llvmlite.binding as llvm

    features = {name for name, present in llvm.get_host_cpu_features().items() if present}
    if platform.machine().lower() not in ("aarch64", "arm64"):
        return features
    if sys.platform == "win32":
        present = ctypes.windll.kernel32.IsProcessorFeaturePresent
        return features | {name for number, name in _WINDOWS.items() if present(number)}
    if sys.platform == "darwin":
        return features | {name for key, name in _MACOS.items() if _sysctl(key)}
    return features | arm_features(Path("/proc/cpuinfo").read_text())


def arm_features(cpuinfo: str) -> set[str]:
    """Those that every processor in the text of Linux' /proc/cpuinfo has."""
    lists = [line.partition(":")[2].split() for line in cpuinfo.splitlines() if line.startswith("Features")]
    return {name for flag, name in _LINUX.items() if lists and all(flag in flags for flags in lists)}


def _sysctl(key: bytes) -> int:
    """A number that macOS keeps under a name; 0 where it knows none."""
    value, size = ctypes.c_int(0), ctypes.c_size_t(ctypes.sizeof(ctypes.c_int))
    failed = ctypes.CDLL(None).sysctlbyname(key, ctypes.byref(value), ctypes.byref(size), None, 0)
    return 0 if failed else value.value
