"""A load test: many clients at one server for minutes, right requests and wrong ones, patient clients and rude ones.

First some sixty requests of all APIs are answered alone. Then the clients ask them in any order, leave in the middle of
answers and of requests, read slowly, and send bad JSON, huge bodies, wrong parameters and noise. Every answer that
comes to its end has to be the one that was obtained alone; every tenth request or so is one that nobody asked before,
and is asked again, alone, at the end. Memory is sampled: what counts is how much it grows in the second half. When all
is over nothing may be left: no blocks of the cache in use, no requests, no connections, no errors of the server's own
in its log. The exit status is 1 if anything of this is not so.
"""

import argparse
import asyncio
import re
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from serving_process import ServerProcess, llmrun_command
from soak_client import Address, ask
from soak_load import Load, references
from soak_requests import pool, refused

from llmrun.runner.registry import resolve

MIB = 1 << 20
CONTEXT, PARALLEL = 2048, 4  # a cache that the clients fill
SAMPLES = 150  # of the memory, in all of the time
MOST_GROWTH = 8 * MIB  # in the second half
SETTLING = 30.0  # seconds for the server to notice that the last clients have left
MOST_FILES = 3  # that may be open at the end and were not at the beginning


@dataclass(frozen=True)
class State:
    """What the server has open, and what it holds, at one moment."""

    at: float  # seconds since the load began
    memory: int  # bytes of its own, without what is mapped from files
    n_files: int
    n_blocks_used: int
    n_blocks: int
    n_requests: int


def state_of(process: int, numbers: dict[str, float], at: float) -> State:
    """Look at a server; memory and files are 0 where the system has no /proc."""
    folder = Path(f"/proc/{process}")
    memory = n_files = 0
    if folder.exists():
        status = (folder / "status").read_text()
        memory = sum(int(number) << 10 for number in re.findall(r"^Rss(?:Anon|Shmem):\s+(\d+)", status, re.MULTILINE))
        n_files = len(list((folder / "fd").iterdir()))
    return State(
        at, memory, n_files, int(numbers["kv_blocks_used"]), int(numbers["kv_blocks"]),
        int(numbers["requests_running"] + numbers["requests_waiting"]),
    )  # fmt: skip


async def numbers_of(address: Address) -> dict[str, float]:
    """What /metrics says, by name without the prefix; summed over labels."""
    reply = await ask(address, "GET", "/metrics")
    numbers: dict[str, float] = {}
    for name, value in re.findall(r"^llmrun_(\w+)(?:\{.*\})? (\S+)$", reply.body.decode(), re.MULTILINE):
        numbers[name] = numbers.get(name, 0) + float(value)
    return numbers


async def watch(address: Address, process: int, every: float, states: list[State]) -> None:
    """Sample the server for ever."""
    begin = time.monotonic()
    while True:
        states.append(state_of(process, await numbers_of(address), time.monotonic() - begin))
        await asyncio.sleep(every)


async def settled(address: Address, process: int) -> State:
    """Wait until the server has nothing to do, for as long as it may take, and look at it."""
    end = time.monotonic() + SETTLING
    while True:
        state = state_of(process, await numbers_of(address), 0.0)
        if not (state.n_blocks_used or state.n_requests) or time.monotonic() > end:
            return state
        await asyncio.sleep(0.1)


def growth(states: list[State]) -> float:
    """Bytes by which memory grows in the second half, by the line that fits best."""
    half = [state for state in states if state.at >= states[-1].at / 2]
    at, memory = np.array([state.at for state in half]), np.array([state.memory for state in half], np.float64)
    slope = np.polyfit(at - at[0], memory, 1)[0] if len(half) > 2 else 0.0
    return float(slope * (at[-1] - at[0]))


@dataclass
class Outcome:
    """What came of it: lines of a table, and what was wrong."""

    rows: list[tuple[str, str]]
    faults: list[str]

    def table(self) -> str:
        """In Markdown."""
        return "\n".join(f"| {name} | {value} |" for name, value in [("", ""), ("---", "---"), *self.rows][1:])


async def soak(
    address: Address, process: int, model: str, n_clients: int, seconds: float, seed: int, step: int
) -> Outcome:
    """Do all of it to a server that is running, with every `step`th of the requests."""
    asks = pool(model)[::step]
    known = await references(address, asks)
    again = await references(address, asks)
    faults = [f"{name}: two answers alone differ" for name in known if known[name] != again[name]]
    faults += [f"{name}: status {status}" for name, (status, _) in known.items() if status != 200]
    before = await settled(address, process)
    load = Load(address, asks, known, refused(model), seed)
    states: list[State] = []
    watching = asyncio.create_task(watch(address, process, seconds / SAMPLES, states))
    begin = time.monotonic()
    await load.run(n_clients, seconds)
    took = time.monotonic() - begin
    watching.cancel()
    n_fresh = await load.check_fresh()
    after = await settled(address, process)
    numbers = await numbers_of(address)
    faults += [f"{what} ({n} times)" for what, n in load.failures.items()]
    faults += _left_over(before, after, states)
    rows = [(name, f"{n:,}") for name, n in sorted(load.done.items())]
    rows += [
        ("new requests asked again alone", f"{n_fresh}"),
        ("seconds", f"{took:.0f}"),
        ("tokens generated", f"{numbers['generated_tokens_total']:,.0f}"),
        ("memory at the beginning, at the end", f"{states[0].memory / MIB:.1f} MiB, {after.memory / MIB:.1f} MiB"),
        ("growth in the second half", f"{growth(states) / MIB:+.2f} MiB"),
        ("files open before, at most, after",
         f"{before.n_files}, {max(state.n_files for state in states)}, {after.n_files}"),
        ("blocks of the cache in use before, at most, after",
         f"{before.n_blocks_used}, {max(state.n_blocks_used for state in states)} of {after.n_blocks}, "
         f"{after.n_blocks_used}"),
        ("requests open before, at most, after",
         f"{before.n_requests}, {max(state.n_requests for state in states)}, {after.n_requests}"),
    ]  # fmt: skip
    return Outcome(rows, faults)


def _left_over(before: State, after: State, states: list[State]) -> list[str]:
    faults = []
    if after.n_blocks_used:
        faults.append(f"{after.n_blocks_used} blocks of the cache are still in use")
    if after.n_requests:
        faults.append(f"{after.n_requests} requests are still open")
    if after.n_files > before.n_files + MOST_FILES:
        faults.append(f"{after.n_files} files are open, before it were {before.n_files}")
    if any(state.n_blocks != before.n_blocks for state in states):
        faults.append("the cache has changed its size")
    if growth(states) > MOST_GROWTH:
        faults.append(f"memory grew by {growth(states) / MIB:.1f} MiB in the second half")
    return faults


def log_faults(log: str) -> list[str]:
    """What a server says only if something is wrong with itself."""
    lines = log.splitlines()
    return [f"the log: {line[:300]}" for line in lines if "Traceback" in line or "level=error" in line][:5]


def run(model: Path, n_clients: int, seconds: float, seed: int = 0, step: int = 1) -> Outcome:
    """Start a server, and do all of it."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        command = llmrun_command(model, 2, CONTEXT, PARALLEL)
        with ServerProcess(command, log) as server:
            watched = server.address, server.process.pid, model.stem
            outcome = asyncio.run(soak(*watched, n_clients, seconds, seed, step))
            if server.process.poll() is not None:
                outcome.faults.append(f"the server ended with status {server.process.returncode}")
        if server.process.returncode != 0 and sys.platform != "win32":
            outcome.faults.append(f"stopping ended with status {server.process.returncode}")
        outcome.faults += log_faults(log.read_text(encoding="utf-8", errors="replace"))
        return outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("model", help="path of a GGUF file, or a name of models.toml")
    add("--minutes", type=float, metavar="N", default=10.0, help="default: %(default)s")
    add("--clients", type=int, metavar="N", default=64, help="default: %(default)s")
    add("--seed", type=int, metavar="N", default=0, help="of what the clients do; default: %(default)s")
    options = parser.parse_args()
    outcome = run(resolve(options.model), options.clients, 60 * options.minutes, options.seed)
    print(outcome.table())
    for fault in outcome.faults:
        print(f"FAULT {fault}")
    sys.exit(1 if outcome.faults else 0)


if __name__ == "__main__":
    main()
