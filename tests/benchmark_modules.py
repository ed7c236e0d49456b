"""The programs of benchmarks/, for tests of what they read and reckon."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"


@contextlib.contextmanager
def benchmark_modules(*names: str) -> Iterator[SimpleNamespace]:
    """Import modules, which find each other as programs do: by their bare names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield SimpleNamespace(**{name: __import__(name) for name in names})
        for name in names:
            del sys.modules[name]
