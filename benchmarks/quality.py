"""How near llmrun and llama.cpp are to each other, and to the exact result, on English text.

Compares the logits after every token of a text over the whole vocabulary: mean KL divergence, how often the likeliest
token is the same, and perplexity. llama.cpp appears twice, as it runs a prompt and as it decodes, because these differ
from each other as well. "exact" is float64 arithmetic on the dequantised weights.
"""

import argparse
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
from exact import ExactModel
from peer import Peer

from llmrun.quant_formats.gguf_file import GGUFFile
from llmrun.runner.kv_cache import blocks_for
from llmrun.runner.loader import load_model
from llmrun.runner.prompt_logits import prompt_logits
from llmrun.runner.registry import resolve
from llmrun.runner.tokenizer import Tokenizer

TEXT = Path(__file__).parent.parent / "tests" / "english.txt"


class Comparison:
    """Sums over positions of how far runners are from each other."""

    def __init__(self, names: list[str]) -> None:
        self.names, self.n = names, 0
        self.loss = dict.fromkeys(names, 0.0)
        self.kl = dict.fromkeys(((a, b) for a in names for b in names if a != b), 0.0)
        self.same_top = dict.fromkeys(combinations(names, 2), 0)

    def add(self, targets: list[int], logits: list[np.ndarray]) -> None:
        """Take in a chunk of positions: logits (n, n_vocab) of every runner, and the ids that come next."""
        logprobs = {name: _log_softmax(chunk[: len(targets)]) for name, chunk in zip(self.names, logits, strict=True)}
        self.n += len(targets)
        for name in self.names:
            self.loss[name] -= float(logprobs[name][np.arange(len(targets)), targets].sum())
        for a in self.names:
            probabilities = np.exp(logprobs[a])
            for b in self.names:
                if a != b:
                    self.kl[a, b] += float(np.vdot(probabilities, logprobs[a] - logprobs[b]))
        for a, b in self.same_top:
            self.same_top[a, b] += int((logprobs[a].argmax(-1) == logprobs[b].argmax(-1)).sum())

    def print(self) -> None:
        """Tables in Markdown."""
        print(f"\n{self.n} positions\n\n| runner | perplexity |\n|---|---|")
        for name in self.names:
            print(f"| {name} | {np.exp(self.loss[name] / self.n):.4f} |")
        print("\n| reference | runner | mean KL | same top token | perplexity |\n|---|---|---|---|---|")
        for a, b in self.same_top:
            ratio = np.exp((self.loss[b] - self.loss[a]) / self.n) - 1
            print(f"| {a} | {b} | {self.kl[a, b] / self.n:.2e} | {self.same_top[a, b] / self.n:.2%} | {ratio:+.2%} |")


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="path of a GGUF file, or a name of models.toml")
    parser.add_argument("--peer-python", metavar="PATH", required=True, help="a Python that has llama-cpp-python")
    parser.add_argument("--text", type=Path, default=TEXT, help="the text to run; default: %(default)s")
    parser.add_argument("--positions", type=int, metavar="N", default=1500, help="most positions; default: %(default)s")
    parser.add_argument("--threads", type=int, metavar="N", default=1, help="of each runner; default: %(default)s")
    options = parser.parse_args()
    path = resolve(options.model)
    with GGUFFile.open(path) as gguf:
        tokens = Tokenizer.from_gguf(gguf.metadata).encode(options.text.read_text(encoding="utf-8"))
        tokens = tokens[: options.positions + 1]
        model = load_model(gguf, options.threads)
        exact = ExactModel(gguf)
    model.allocate_kv(blocks_for(len(tokens)))
    peers = [Peer(options.peer_python, path, options.threads, len(tokens) + 1) for _ in range(2)]
    runners: dict[str, Iterator[np.ndarray]] = {
        "exact": exact.prompt_logits(tokens),
        "llama.cpp, prompt": peers[0].prompt_logits(tokens),
        "llama.cpp, decoding": peers[1].prompt_logits(tokens, single=True),
        "llmrun": prompt_logits(model, tokens),
    }
    comparison = Comparison(list(runners))
    for chunks in zip(*runners.values(), strict=True):
        first = comparison.n + 1
        comparison.add(tokens[first : first + len(chunks[0])], list(chunks))
    comparison.print()


if __name__ == "__main__":
    main()
