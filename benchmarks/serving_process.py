"""A server under test: a process that listens on a free port until it is told to end."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

STARTING = 600.0  # seconds; a first start compiles kernels
ENDING = 30.0


class ServerProcess:
    """`with ServerProcess(command) as server:`; {port} in the command stands for the port.

    log: the file for what the server says, if anybody wants to know.
    """

    def __init__(self, command: Sequence[str], log: Path | None = None) -> None:
        self._command = command
        self._log = log

    def __enter__(self) -> Self:
        self.address = ("127.0.0.1", _free_port())
        command = [part.replace("{port}", str(self.address[1])) for part in self._command]
        with Path(os.devnull if self._log is None else self._log).open("wb") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
        try:
            self._wait()
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise
        return self

    def _wait(self) -> None:
        end = time.monotonic() + STARTING
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise RuntimeError(f"{self._command[0]} ended with status {self.process.returncode}")
            try:
                with urllib.request.urlopen(f"http://{self.address[0]}:{self.address[1]}/health") as answer:
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, OSError):  # not there yet, or still loading
                time.sleep(0.05)
        raise RuntimeError(f"{self._command[0]} is not ready after {STARTING:.0f} s")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.terminate()
        try:
            self.process.wait(ENDING)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def llmrun_command(model: Path, n_threads: int, n_ctx: int, n_slots: int) -> list[str]:
    """Our server."""
    program = Path(sys.executable).with_name("llmrun.exe" if sys.platform == "win32" else "llmrun")
    start = [str(program)] if program.exists() else [sys.executable, "-c", "from llmrun.cli.app import main; main()"]
    sizes = ["--ctx", str(n_ctx), "--parallel", str(n_slots), "--threads", str(n_threads)]
    return [*start, "serve", str(model), "--port", "{port}", *sizes, "--log-level", "warning"]


def llama_server_command(program: Sequence[str], model: Path, n_threads: int, n_ctx: int, n_slots: int) -> list[str]:
    """llama.cpp's, whose context is shared out among its slots."""
    sizes = ["-c", str(n_slots * n_ctx), "--parallel", str(n_slots), "--threads", str(n_threads)]
    return [program[0], "-m", str(model), "--port", "{port}", *sizes, *program[1:]]


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port
