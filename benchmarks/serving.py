"""Servers next to each other: many clients that stream chats, and a long prompt that comes in between.

Each server has the machine for itself, for one round of everything, then the next has its turn; who begins changes from
round to round. The same client reads all of them, on one thread of this process. The medians of the rounds count.

"together" is all clients at once, each with several chats one after the other: tokens a second of all, seconds to the
first token of each chat, and seconds from one arrival of text to the next. "beside a long prompt" is one client less,
each in the middle of an answer when a long prompt arrives: the pauses of these streams until that prompt is answered,
as multiples of the usual one. Usual is the median of the pauses at the same place of other answers, which nothing comes
between; how far these themselves stray from it is what the machine alone does. No prompt comes twice.
"""

import argparse
import json
import shlex
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from machine import describe
from serving_client import Address, Chats, ChatStream
from serving_process import ServerProcess, llama_server_command, llmrun_command

from llmrun.runner.registry import resolve

NEAR = 20  # arrivals before and after the place of a pause, that say what is usual there
STEADY = 24  # arrivals of each stream before the long prompt comes
LONG_ANSWER = 8  # tokens of the answer to it
WORDS = ("time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school", "state")


@dataclass(frozen=True)
class Load:
    """What is asked: numbers of clients, of chats of each, and of tokens."""

    n_clients: int
    n_chats: int
    n_tokens: int
    long_prompt: int
    long_stream: int  # most tokens of the answers that are running when the long prompt comes


@dataclass(frozen=True)
class Round:
    """What one server did in one round; times in seconds."""

    tokens_per_second: float
    first_token: list[float]  # of every chat
    gaps: list[float]  # between arrivals
    long_first_token: float
    pauses: list[float]  # of the running streams while it was computed, in usual ones
    alone: list[float]  # the same without it


def chat(text: str, n_tokens: int) -> dict[str, Any]:
    """A request whose answer has exactly so many tokens."""
    messages = [{"role": "user", "content": text}]
    return {"model": "", "messages": messages, "max_tokens": n_tokens, "temperature": 0, "ignore_eos": True}


def question(rng: np.random.Generator) -> str:
    """A prompt of some twenty tokens that was not there before."""
    return f"Write a story of a {' and a '.join(rng.choice(WORDS, 6))}, number {rng.integers(1 << 30)}."


def long_text(rng: np.random.Generator, n_tokens: int) -> str:
    """About so many tokens: each of the words is one."""
    return " ".join(rng.choice(WORDS, n_tokens - 50))


def together(address: Address, load: Load, rng: np.random.Generator) -> tuple[float, list[float], list[float]]:
    """Tokens a second, times to the first token, gaps."""
    chats = Chats(address)
    for _ in range(load.n_clients):
        chats.start_all([chat(question(rng), load.n_tokens) for _ in range(load.n_chats)])
    streams = chats.read_all()
    seconds = max(stream.ended_at or 0.0 for stream in streams) - min(stream.sent_at for stream in streams)
    speed = sum(stream.n_tokens for stream in streams) / seconds
    return speed, [stream.time_to_first_token for stream in streams], [gap for one in streams for gap in one.gaps]


def beside_long_prompt(
    address: Address, load: Load, rng: np.random.Generator
) -> tuple[float, list[float], list[float]]:
    """Seconds to the first token of a long prompt; pauses of the streams that it met, and pauses without it."""
    chats, running = _running(address, load, rng)
    late = chats.start(chat(long_text(rng, load.long_prompt), LONG_ANSWER))
    chats.read_until(lambda: bool(late.arrivals))
    first = late.arrivals[0]
    # a few more steps, so that the pause in which the prompt was finished is whole
    chats.read_until(lambda: all(stream.arrivals[-1] > first or stream.ended_at for stream in running))
    chats.close()
    if any(stream.ended_at for stream in running):
        raise SystemExit("streams ended before the long prompt was computed; ask for longer ones: --long-stream")
    met = [
        (i, gap)
        for stream in running
        for i, (begin, gap) in enumerate(zip(stream.arrivals, stream.gaps, strict=False))
        if begin + gap > late.sent_at and begin < first
    ]
    n_arrivals = max(len(stream.arrivals) for stream in running)
    chats, others = _running(address, load, rng)
    chats.read_until(lambda: all(len(stream.arrivals) > n_arrivals for stream in others))
    chats.close()
    usual = _usual([stream.gaps for stream in others], n_arrivals)
    alone = [gap / usual[i] for stream in others for i, gap in enumerate(stream.gaps[:n_arrivals]) if i >= STEADY]
    return late.time_to_first_token, [gap / usual[i] for i, gap in met], alone


def _running(address: Address, load: Load, rng: np.random.Generator) -> tuple[Chats, list[ChatStream]]:
    """Streams of all clients but one, each in the middle of its answer."""
    chats = Chats(address)
    running = [chats.start(chat(question(rng), load.long_stream)) for _ in range(load.n_clients - 1)]
    chats.read_until(lambda: all(len(stream.arrivals) > STEADY for stream in running))
    return chats, running


def _usual(gaps: list[list[float]], n_arrivals: int) -> list[float]:
    """The median pause after each arrival, of all streams and the arrivals near it."""
    return [
        median([gap for stream in gaps for gap in stream[max(0, i - NEAR) : i + NEAR]]) for i in range(n_arrivals + 1)
    ]


def measure(command: list[str], load: Load, seed: int) -> Round:
    """Start a server, and ask it everything."""
    rng = np.random.default_rng(seed)
    with ServerProcess(command) as server:
        warm_up = Chats(server.address)
        for _ in range(2):
            warm_up.start(chat(question(rng), 4))
        warm_up.read_all()
        speed, first_token, gaps = together(server.address, load, rng)
        late, pauses, alone = beside_long_prompt(server.address, load, rng)
    return Round(speed, first_token, gaps, late, pauses, alone)


def rows(rounds: dict[str, list[Round]]) -> Iterable[list[str]]:
    """The table, a line for each number, a column for each server."""
    for percent in (50, 95):
        yield [f"first token p{percent}", *_cells(rounds, lambda one, p=percent: np.percentile(one.first_token, p))]
    for percent in (50, 95):
        yield [f"token to token p{percent}", *_cells(rounds, lambda one, p=percent: np.percentile(one.gaps, p))]
    yield ["first token of the long prompt", *_cells(rounds, lambda one: one.long_first_token)]
    for name, pauses in (("beside it", lambda one: one.pauses), ("without it", lambda one: one.alone)):
        for percent in (50, 95, 99, 100):
            values = [
                median(float(np.percentile(pauses(one), percent)) for one in several) for several in rounds.values()
            ]
            which = "longest pause" if percent == 100 else f"pause p{percent}"
            yield [f"{which} of a stream {name}, in usual ones", *(f"{value:.2f}" for value in values)]


def _cells(rounds: dict[str, list[Round]], number: Any) -> list[str]:
    return [f"{1000 * median(float(number(one)) for one in several):,.0f} ms" for several in rounds.values()]


def table(rounds: dict[str, list[Round]]) -> str:
    """All of it, in Markdown."""
    speeds = [f"{median(one.tokens_per_second for one in several):,.0f}" for several in rounds.values()]
    lines = [["", *rounds], ["---"] * (len(rounds) + 1), ["tokens a second", *speeds], *rows(rounds)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    options = _parser().parse_args()
    path = resolve(options.model)
    sizes = (path, options.threads, options.ctx, options.clients)
    commands = {"llmrun": llmrun_command(*sizes)}
    if options.llama_server:
        commands["llama-server"] = llama_server_command(shlex.split(options.llama_server), *sizes)
    load = Load(options.clients, options.chats, options.tokens, options.long_prompt, options.long_stream)
    rounds: dict[str, list[Round]] = {name: [] for name in commands}
    for i in range(options.rounds):
        names = list(commands)
        for name in [*names[i % len(names) :], *names[: i % len(names)]]:
            rounds[name].append(measure(commands[name], load, seed=i))
            print(f"round {i + 1}, {name}: {rounds[name][-1].tokens_per_second:,.0f} tokens a second", flush=True)
    about = f"{path.stem}, {options.threads} threads, {load.n_clients} clients, {options.rounds} rounds"
    print(f"\n{describe()}\n{about}\n\n{table(rounds)}")
    if len(rounds) > 1:
        ratios = sorted(
            ours.tokens_per_second / other.tokens_per_second
            for ours, other in zip(rounds["llmrun"], rounds["llama-server"], strict=True)
        )
        print(f"\ntokens a second: {median(ratios):.2f} times, {ratios[0]:.2f} to {ratios[-1]:.2f}")
    if options.json:
        found = {name: [asdict(one) for one in several] for name, several in rounds.items()}
        everything = {"machine": describe(), "about": about, "load": asdict(load), "rounds": found}
        options.json.write_text(json.dumps(everything, indent=2) + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("model", help="path of a GGUF file, or a name of models.toml")
    add("--llama-server", metavar="PATH ARGUMENTS", help="a llama-server program, with any more arguments for it")
    add("--threads", type=int, metavar="N", default=2, help="of each server; default: %(default)s")
    add("--rounds", type=int, metavar="N", default=5, help="default: %(default)s")
    add("--clients", type=int, metavar="N", default=16, help="and slots of llama-server; default: %(default)s")
    add("--chats", type=int, metavar="N", default=3, help="of each client; default: %(default)s")
    add("--tokens", type=int, metavar="N", default=128, help="of each answer; default: %(default)s")
    add("--ctx", type=int, metavar="N", default=4608, help="tokens of context of each slot; default: %(default)s")
    add("--long-prompt", type=int, metavar="N", default=4000, help="about so many tokens; default: %(default)s")
    add("--long-stream", type=int, metavar="N", default=2000,
        help="tokens of the answers that it meets, at most; default: %(default)s")  # fmt: skip
    add("--json", type=Path, metavar="FILE", help="where to write all numbers")
    return parser


if __name__ == "__main__":
    main()
