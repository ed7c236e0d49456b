"""Any `llama-bench` program, llama.cpp's or ik_llama.cpp's: started anew for every measurement, answers in JSON.

It runs a warm-up of its own before it measures. llama.cpp's has `-d N` for the depth of a context, ik_llama.cpp's
`-gp N,n`, which times only the n tokens that follow N; both fill the context anew each time.
"""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

from case import Case

SHOWN_ERROR_LINES = 10


class LlamaBench:
    """One program with fixed arguments."""

    def __init__(self, name: str, program: list[str], model: Path, n_threads: int) -> None:
        """`program` is the path of llama-bench and any arguments for every run, such as ["-rtr", "1"]."""
        self.name = name
        self._command = [*program, "-m", str(model), "-t", str(n_threads), "-o", "json"]
        self._arguments = program[1:]
        self._depth_option = depth_option(_output([program[0], "--help"]))
        self._build = ""

    @classmethod
    def from_option(cls, option: str, model: Path, n_threads: int) -> "LlamaBench":
        """Of a command line's NAME=PATH ARGUMENTS; raises ValueError if it is not one."""
        name, _, command = option.partition("=")
        program = shlex.split(command, posix=os.name != "nt")
        if not (name and program):
            raise ValueError(f"{option!r} is not NAME=PATH, such as 'ik=llama-bench -fa 1'")
        return cls(name, program, model, n_threads)

    @property
    def about(self) -> str:
        """The build, once something was measured, and the arguments."""
        return " ".join(["llama-bench", *filter(None, [self._build]), *self._arguments])

    def can(self, case: Case) -> bool:
        """One sequence, at a depth if the program knows how."""
        return case.n_sequences == 1 and (not case.depth or self._depth_option is not None)

    def prepare(self, case: Case) -> None:
        """Nothing stays from one run to the next; the file is in memory once somebody has read it."""

    def speed(self, case: Case) -> float:
        """Tokens a second, of the last repetition: the first prompt of a process still takes memory from the system."""
        test = tests(_output(self._command + self._case_arguments(case)))[-1]
        self._build = f"build {test['build_number']} ({test['build_commit']})"
        return float(test["samples_ts"][-1])

    def _case_arguments(self, case: Case) -> list[str]:
        if case.depth is None:
            return ["-p", str(case.n_tokens), "-n", "0", "-r", "2"]
        if not case.depth:
            return ["-p", "0", "-n", str(case.n_tokens), "-r", "2"]
        if self._depth_option == "-d":
            return ["-p", "0", "-n", str(case.n_tokens), "-d", str(case.depth), "-r", "1"]
        return ["-p", "0", "-n", "0", "-gp", f"{case.depth},{case.n_tokens}", "-r", "1"]


def depth_option(help_text: str) -> str | None:
    """Which option of the program sets the depth of a context: "-d", "-gp" or none."""
    for option in ("-d", "-gp"):
        if re.search(rf"^\s*{option}[, ]", help_text, re.MULTILINE):
            return option
    return None


def tests(output: str) -> list[dict[str, Any]]:
    """The results in what the program printed; other lines in between, as from a loader, do not matter.

    Raises ValueError if there is none.
    """
    found, decoder = [], json.JSONDecoder()
    for match in re.finditer(r"^\s*\{", output, re.MULTILINE):
        try:
            test, _ = decoder.raw_decode(output, match.end() - 1)
        except json.JSONDecodeError:  # a line of somebody else
            continue
        if "samples_ts" in test:
            found.append(test)
    if not found:
        raise ValueError("llama-bench printed no result")
    return found


def _output(command: list[str]) -> str:
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if result.returncode:
        last = "\n".join((result.stderr or result.stdout).splitlines()[-SHOWN_ERROR_LINES:])
        raise SystemExit(f"{shlex.join(command)} ended with status {result.returncode}:\n{last}")
    return result.stdout
