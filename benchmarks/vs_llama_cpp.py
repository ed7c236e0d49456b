"""llmrun next to llama.cpp on the same file in the same run: prefill, decode, decode in a long context.

The two take turns, and who begins changes from round to round; the medians count. "of the roof" is the bytes that a
token reads (every weight, and the keys and values of its context) over what the same threads can read from a buffer of
that size, so a model that fits into a cache is held against the cache. The hash is that of our logits after a
fixed prompt: it changes when, and only when, the arithmetic does.
"""

import argparse
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np
from machine import describe
from peer import Peer

from llmrun.cli.model_facts import ModelFacts
from llmrun.cpu_kernels.bandwidth import read_bandwidth
from llmrun.quant_formats.gguf_file import GGUFFile
from llmrun.runner.loader import load_model
from llmrun.runner.model import Model
from llmrun.runner.prompt_logits import prompt_logits
from llmrun.runner.registry import resolve
from llmrun.runner.speed import SpeedTest

PAUSE = 0.2  # seconds between the two, in which threads that wait in a loop fall asleep
HASHED_TOKENS = 48


@dataclass(frozen=True)
class Case:
    """Something to measure: how many tokens, and at which depth one by one; no depth is a prefill."""

    name: str
    n_tokens: int
    depth: int | None = None

    def prepare(self, test: SpeedTest, peer: Peer, tokens: list[int]) -> None:
        """Fill the contexts up to the depth, and run once so that caches are warm."""
        if self.depth:
            test.prefill(self.depth)
            peer.prefill(tokens[: self.depth])
        self.ours(test)
        self.theirs(peer, tokens)

    def ours(self, test: SpeedTest) -> float:
        """Tokens a second of llmrun."""
        seconds = test.prefill(self.n_tokens) if self.depth is None else test.decode(self.depth, self.n_tokens)
        return self.n_tokens / seconds

    def theirs(self, peer: Peer, tokens: list[int]) -> float:
        """Tokens a second of llama.cpp."""
        tokens = tokens[: self.n_tokens]
        return self.n_tokens / (peer.prefill(tokens) if self.depth is None else peer.decode(self.depth, tokens))


def measure(case: Case, n_rounds: int, ours: Callable[[], float], theirs: Callable[[], float]) -> list[list[float]]:
    """Tokens a second of the two in each round."""
    speeds: list[list[float]] = [[], []]
    for i in range(n_rounds):
        for which in (i % 2, 1 - i % 2):
            time.sleep(PAUSE)
            speeds[which].append((ours, theirs)[which]())
    return speeds


def hash_of_logits(model: Model) -> str:
    """Names the numbers that the model computes for a fixed prompt; its first tokens' KV blocks are overwritten."""
    digest = hashlib.sha256()
    for chunk in prompt_logits(model, range(1, HASHED_TOKENS + 1)):
        digest.update(np.ascontiguousarray(chunk).tobytes())
    return digest.hexdigest()[:16]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="path of a GGUF file, or a name of models.toml")
    parser.add_argument("--peer-python", metavar="PATH", required=True, help="a Python that has llama-cpp-python")
    parser.add_argument("--threads", type=int, metavar="N", default=2, help="of each runner; default: %(default)s")
    parser.add_argument("--rounds", type=int, metavar="N", default=7, help="default: %(default)s")
    parser.add_argument("--prompt", type=int, metavar="N", default=512, help="tokens to prefill; default: %(default)s")
    parser.add_argument("--tokens", type=int, metavar="N", default=64, help="tokens to decode; default: %(default)s")
    parser.add_argument("--depth", type=int, metavar="N", default=2048, help="the long context; default: %(default)s")
    options = parser.parse_args()
    cases = [
        Case(f"prefill {options.prompt}", options.prompt),
        Case("decode", options.tokens, 0),
        Case(f"decode at {options.depth}", options.tokens, options.depth),
    ]
    n_ctx = max(options.prompt, options.depth + options.tokens)
    path = resolve(options.model)
    with GGUFFile.open(path) as gguf:
        facts = ModelFacts.from_gguf(gguf)
        model = load_model(gguf, options.threads)
    test = SpeedTest(model, 1, n_ctx)
    tokens = np.random.default_rng(0).integers(0, model.config.n_vocab, n_ctx).tolist()
    with Peer(options.peer_python, path, options.threads, n_ctx) as peer:
        print(f"{describe()}\nllama-cpp-python {peer.about['version']}: {peer.about['system']}")
        print(f"{facts.name}, {options.threads} threads, {options.rounds} rounds, logits {hash_of_logits(model)}\n")
        print("| tok/s | llmrun | llama.cpp | ratio | ratios of the rounds | of the roof |\n|---|---|---|---|---|---|")
        for case in cases:
            case.prepare(test, peer, tokens)
            speeds = measure(case, options.rounds, lambda c=case: c.ours(test), lambda c=case: c.theirs(peer, tokens))
            ours, theirs = (median(values) for values in speeds)
            ratios = sorted(a / b for a, b in zip(*speeds, strict=True))
            share = "" if case.depth is None else _share(facts, case.depth + case.n_tokens // 2, ours, options.threads)
            spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
            print(f"| {case.name} | {ours:.1f} | {theirs:.1f} | {ours / theirs:.2f} | {spread} | {share} |", flush=True)
    model.close()


def _share(facts: ModelFacts, depth: int, tokens_per_second: float, n_threads: int) -> str:
    n_bytes = facts.read_bytes + facts.kv_bytes(depth)
    roof = read_bandwidth(n_threads, n_bytes // 256 * 256)
    return f"{n_bytes * tokens_per_second / roof:.0%} of {roof / 1e9:.1f} GB/s"


if __name__ == "__main__":
    main()
