"""What a benchmark says about the machine it ran on: the processor, never its name or its paths."""

import platform
from importlib.metadata import version
from pathlib import Path

from llmrun.cpu_kernels.isa import choose
from llmrun.runner.loader import default_threads


def describe(isa: str | None = None) -> str:
    """One line: processor, processors that may be used, caches, system, instruction set of our kernels, versions."""
    kernels = f"kernels {choose(isa).name}"
    parts = [_processor(), f"{default_threads()} processors", *_caches(), platform.system(), kernels]
    parts += [f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in ("numba", "llmrun"))]
    return ", ".join(parts)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    facts = dict(part for line in lines if len(part := [text.strip() for text in line.split(":", 1)]) == 2)
    return f"{facts.get('model name', platform.machine())} (model {facts.get('model', '?')})"


def _caches() -> list[str]:
    """Of the first processor; empty where the system is not Linux, or does not say."""
    caches = sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"))
    facts = [[(cache / name).read_text().strip() for name in ("level", "type", "size")] for cache in caches]
    return [f"L{level} {size.removesuffix('K')} KiB" for level, kind, size in facts if kind != "Instruction"]
