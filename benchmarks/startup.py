"""Seconds from the start of a process to its first token, with everything in the page cache.

llmrun is the command that a user types; llama.cpp is a Python process that loads the model, runs the same prompt and
prints a token. The two take turns; the first round of each, which fills caches and may compile kernels, does not count.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from machine import describe

from llmrun.runner.registry import resolve

PROMPT = "Why is the sky blue?"

PEER = """
import sys
from llama_cpp import Llama
llama = Llama(sys.argv[1], n_ctx=2048, n_threads=int(sys.argv[2]), n_threads_batch=int(sys.argv[2]), verbose=False)
llama.eval(llama.tokenize(sys.argv[3].encode()))
print(llama.sample(temp=0), flush=True)
"""


def seconds_to_first_byte(command: list[str]) -> float:
    """From the start of the process to the first byte of its answer."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = process.stdout.read(1)
        seconds = time.perf_counter() - start
        process.stdout.read()
    if not first or process.returncode:
        raise SystemExit(f"{command[0]} ended with status {process.returncode} and without an answer")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="path of a GGUF file, or a name of models.toml")
    parser.add_argument("--peer-python", metavar="PATH", help="a Python that has llama-cpp-python")
    parser.add_argument("--threads", type=int, metavar="N", default=2, help="of each runner; default: %(default)s")
    parser.add_argument("--rounds", type=int, metavar="N", default=7, help="default: %(default)s")
    options = parser.parse_args()
    path, threads = str(resolve(options.model)), str(options.threads)
    llmrun = str(Path(sys.executable).with_name("llmrun.exe" if sys.platform == "win32" else "llmrun"))
    commands = {
        "llmrun": [llmrun, "run", path, PROMPT, "--temp", "0", "--max-tokens", "2", "--threads", threads],
    }
    if options.peer_python:
        commands["llama.cpp"] = [options.peer_python, "-c", PEER, path, threads, PROMPT]
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for i in range(options.rounds + 1):
        for name, command in commands.items():
            took = seconds_to_first_byte(command)
            if i:
                seconds[name].append(took)
    print(f"{describe()}\n\n| start to first token | median | best | worst |\n|---|---|---|---|")
    for name, values in seconds.items():
        print(f"| {name} | {median(values):.2f} s | {min(values):.2f} s | {max(values):.2f} s |")


if __name__ == "__main__":
    main()
