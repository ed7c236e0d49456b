"""llmrun next to llama.cpp and other runners on the same file in the same run.

Prefill, decode, decode in long contexts, and many sequences decoded together. All take turns, and who begins changes
from round to round; the medians count, and the ratio is to the best of the others. "of the roof" is next to reading
the bytes of a token (every weight, and the keys and values of its context) and nothing else, with the same threads and
where they are, the median of the rounds. The hash is that of our logits after a fixed prompt: it changes when, and only
when, the arithmetic does.
"""

import argparse
import hashlib
import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from statistics import median

import numpy as np
from case import Case, cases
from contestant import Contestant, LlamaCpp, Llmrun
from llama_bench import LlamaBench
from loading import measure_loading
from machine import describe
from roof import Roof

from llmrun.cli.model_facts import ModelFacts
from llmrun.cpu_kernels.isa import choose
from llmrun.quant_formats.gguf_file import GGUFFile
from llmrun.runner.gemma3 import PERIOD
from llmrun.runner.kv_cache import blocks_for
from llmrun.runner.loader import load_model
from llmrun.runner.model import Model
from llmrun.runner.prompt_logits import prompt_logits
from llmrun.runner.registry import resolve
from llmrun.runner.speed import SpeedTest

PAUSE = 0.2  # seconds between measurements, in which threads that wait in a loop fall asleep
HASHED_TOKENS = 48
SMALL_BATCH = 4

Speeds = dict[str, list[float]]
"""Tokens a second in each round, by contestant."""


def measure(case: Case, turns: Sequence[Sequence[Contestant]], n_rounds: int) -> Speeds:
    """Each measures a case once a round; those of one turn do so one right after the other."""
    speeds: Speeds = {contestant.name: [] for turn in turns for contestant in turn}
    for turn in turns:
        for contestant in turn:
            contestant.prepare(case)
    for i in range(n_rounds):
        first = i % len(turns)
        for contestant in chain(*turns[first:], *turns[:first]):
            time.sleep(PAUSE)
            speeds[contestant.name].append(contestant.speed(case))
    return speeds


def batch_cost(model: Model, n_tokens: int, n_rounds: int) -> list[float]:
    """How many times as long a step of SMALL_BATCH sequences takes as one of a single sequence, in each round."""
    single, batch = (SpeedTest(model, n, n_tokens) for n in (1, SMALL_BATCH))  # the later has room for both
    single.decode(0, n_tokens)
    batch.decode(0, n_tokens)
    return [batch.decode(0, n_tokens) / single.decode(0, n_tokens) for _ in range(n_rounds)]


def hash_of_logits(model: Model) -> str:
    """Names the numbers that the model computes for a fixed prompt."""
    model.allocate_kv(blocks_for(HASHED_TOKENS))
    digest = hashlib.sha256()
    for chunk in prompt_logits(model, range(1, HASHED_TOKENS + 1)):
        digest.update(np.ascontiguousarray(chunk).tobytes())
    return digest.hexdigest()[:16]


def bytes_of_token(facts: ModelFacts, case: Case) -> int | None:
    """What decoding a token reads on average; None where several tokens share what they read."""
    if case.depth is None or case.n_sequences > 1:
        return None
    depth = case.depth + case.n_tokens // 2
    if not (facts.sliding_window and facts.n_layers):
        return facts.read_bytes + facts.kv_bytes(depth)
    n_global = facts.n_layers // PERIOD
    local = facts.kv_bytes(min(depth, facts.sliding_window)) * (facts.n_layers - n_global) // facts.n_layers
    return facts.read_bytes + facts.kv_bytes(depth) * n_global // facts.n_layers + local


def row(case: Case, speeds: Speeds, names: list[str], share: str) -> str:
    """A line of the table."""
    medians = {name: median(values) for name, values in speeds.items()}
    cells = [f"{medians[name]:.1f}" if name in medians else "-" for name in names]
    others = [name for name in medians if name != Llmrun.name]
    ratio = spread = ""
    if others:
        best = max(others, key=lambda name: medians[name])
        ratios = sorted(a / b for a, b in zip(speeds[Llmrun.name], speeds[best], strict=True))
        ratio, spread = f"{medians[Llmrun.name] / medians[best]:.2f}", f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
    return "| " + " | ".join([case.name, *cells, ratio, spread, share]) + " |"


def fitting(wanted: list[Case], n_ctx: int) -> list[Case]:
    """Those cases that the context of the model has room for; says which have to go."""
    for case in wanted:
        if case.n_ctx > n_ctx:
            print(f"{case.name}: left out, as the context of the model is {n_ctx:,} tokens")
    return [case for case in wanted if case.n_ctx <= n_ctx]


def main() -> None:
    options = _parser().parse_args()
    isa, path = choose(options.isa).name, resolve(options.model)
    with GGUFFile.open(path) as gguf:
        facts = ModelFacts.from_gguf(gguf)
    loading = measure_loading(path, options.threads, isa)  # first, while there is only one copy in memory
    with GGUFFile.open(path) as gguf:
        model = load_model(gguf, options.threads, isa=isa)
    ours = Llmrun(model, describe(isa))
    programs = [LlamaBench.from_option(option, path, options.threads) for option in options.llama_bench]
    wanted = cases(options.prompt, options.tokens, options.depths, options.sequences)
    print(f"{ours.about}\n{facts.name}, {options.threads} threads, {options.rounds} rounds")
    wanted = fitting(wanted, model.config.n_ctx_train)
    n_ctx = max(case.n_ctx for case in wanted)
    results = []
    with ExitStack() as stack:
        peers: list[Contestant] = []
        if options.peer_python:
            peer = LlamaCpp(options.peer_python, path, options.threads, n_ctx, model.config.n_vocab)
            peers.append(stack.enter_context(peer))
        peers += programs
        names = [contestant.name for contestant in (ours, *peers)]
        roof = Roof(model, lambda case: bytes_of_token(facts, case))
        turns: list[list[Contestant]] = [[ours, roof], *([peer] for peer in peers)]
        heads = ["tok/s", *names, "ratio to the best", "ratios of the rounds", "of the roof"]
        print("\n| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
        for case in wanted:
            able = [[one for one in turn if one.can(case)] for turn in turns]
            speeds = measure(case, [turn for turn in able if turn], options.rounds)
            n_bytes, readings, share = bytes_of_token(facts, case), speeds.pop(Roof.name, None), ""
            if n_bytes and readings:
                shares = [a / b for a, b in zip(speeds[ours.name], readings, strict=True)]
                share = f"{median(shares):.0%} of {median(readings) * n_bytes / 1e9:.1f} GB/s"
            print(row(case, speeds, names, share), flush=True)
            results.append({"case": asdict(case), "speeds": speeds, "bytes_of_token": n_bytes, "roof": readings})
        about = {contestant.name: contestant.about for contestant in (ours, *peers)}
    cost = batch_cost(model, options.tokens, options.rounds)
    logits = hash_of_logits(model)
    model.close()
    print("", *(f"{name}: {text}" for name, text in about.items() if name in names[1:]), sep="\n")
    print(f"a step of {SMALL_BATCH} sequences takes {median(cost):.2f} times as long as of one")
    print(f"{loading}\nlogits {logits}")
    if options.json:
        settings = {"threads": options.threads, "isa": isa, "rounds": options.rounds}
        found = {"batch_cost": cost, "loading": asdict(loading), "logits": logits}
        everything = {"machine": ours.about, "model": facts.name, **settings, "about": about, "cases": results, **found}
        options.json.write_text(json.dumps(everything, indent=2) + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("model", help="path of a GGUF file, or a name of models.toml")
    add("--peer-python", metavar="PATH", help="a Python that has llama-cpp-python")
    add("--llama-bench", metavar="NAME=PATH ARGUMENTS", action="append", default=[],
        help="a llama-bench program, such as 'ik=llama-bench -rtr 1'; can be given several times")  # fmt: skip
    add("--threads", type=int, metavar="N", default=2, help="of each runner; default: %(default)s")
    add("--rounds", type=int, metavar="N", default=7, help="default: %(default)s")
    add("--prompt", type=int, metavar="N", default=512, help="tokens to prefill; default: %(default)s")
    add("--tokens", type=int, metavar="N", default=64, help="tokens to decode; default: %(default)s")
    add("--depths", type=_depths, metavar="N,...", default=[0, 2048, 8000],
        help="tokens in the context before decoding; default: 0,2048,8000")  # fmt: skip
    add("--sequences", type=int, metavar="N", default=16, help="decoded together; default: %(default)s")
    add("--isa", metavar="NAME", help="instruction set of our kernels; default: the best of this processor")
    add("--json", type=Path, metavar="FILE", help="where to write all numbers")
    return parser


def _depths(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


if __name__ == "__main__":
    main()
