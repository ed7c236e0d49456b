"""What a benchmark says about the machine it ran on: the processor, never its name or its paths."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

from llmrun.cpu_kernels.isa import choose
from llmrun.runner.loader import default_threads


def describe() -> str:
    """One line: processor, processors that may be used, caches, system, versions."""
    parts = [_processor(), f"{default_threads()} processors", *_caches(), platform.system(), f"kernels {choose().name}"]
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
    if not hasattr(os, "sysconf"):
        return []
    sizes = {name: f"SC_LEVEL{name[1]}{'_DCACHE' if name == 'L1' else '_CACHE'}_SIZE" for name in ("L1", "L2", "L3")}
    known = {name: os.sysconf(key) for name, key in sizes.items() if key in os.sysconf_names}
    return [f"{name} {size >> 10} KiB" for name, size in known.items() if size > 0]
