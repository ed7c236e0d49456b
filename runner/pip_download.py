"""Fetching a wheel with the user's own pip, so that their index, proxy and certificate settings hold."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread

from llmrun.quant_formats.errors import DownloadError

NO_CONNECTION = ("NewConnectionError", "Failed to establish a new connection", "NameResolutionError", "ConnectTimeout")


def pip_download(requirement: str, folder: Path, progress: Callable[[float, float], None]) -> Path:
    """Fetch the wheel of `requirement` (name==version) into the empty or new `folder`; returns its path.

    `progress(done, total)` is called in bytes as they arrive. Only wheels are taken: building a source distribution
    would run its code. Raises DownloadError with pip's own last word.
    """
    # -P: a folder called pip where the user happens to stand is not pip
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar", "raw", "--dest", str(folder), "--", requirement]
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
    pip = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=environment,
    )
    complaints: list[str] = []
    assert pip.stdout is not None
    assert pip.stderr is not None
    reader = Thread(target=complaints.extend, args=(pip.stderr,), daemon=True)  # or a full pipe would stop pip
    reader.start()
    try:
        for line in pip.stdout:
            _report(line, progress)
        status = pip.wait()
    finally:
        if pip.poll() is None:
            pip.kill()
            pip.wait()
        reader.join()
        pip.stdout.close()
        pip.stderr.close()
    if status != 0:
        raise DownloadError(f"{requirement} could not be fetched: {_last_word(complaints)}")
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise DownloadError(f"{requirement}: pip was to fetch one wheel and fetched {len(wheels)}")
    return wheels[0]


def _report(line: str, progress: Callable[[float, float], None]) -> None:
    """Pass on one line of pip's raw progress, `Progress 40960 of 1234567`; other lines are pip talking."""
    words = line.split()
    if len(words) == 4 and words[0] == "Progress" and words[1].isdigit() and words[3].isdigit():
        progress(float(words[1]), float(words[3]))


def _last_word(complaints: list[str]) -> str:
    """What pip said was wrong, in one line."""
    if any(sign in line for line in complaints for sign in NO_CONNECTION):
        return "the package index could not be reached; check the network and the index settings of pip"
    errors = [line.strip() for line in complaints if line.startswith("ERROR:")]
    lines = errors or [line.strip() for line in complaints if line.strip()]
    return "pip says " + lines[-1] if lines else "pip failed and did not say why"
