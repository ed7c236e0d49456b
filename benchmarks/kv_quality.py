"""What each type of keys and values changes, against f16, on English text: perplexity and KL divergence.

The text is that of Python's language reference, which every CPython carries, cut into windows that a model reads from
its first token. Losses are compared token by token, so that the text's own ups and downs are not in the error.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pydoc_data.topics import topics

import numpy as np

from llmrun.cpu_kernels.kv_types import DEFAULT, KV_TYPES
from llmrun.quant_formats.gguf_file import GGUFFile
from llmrun.runner.batch import ring_blocks
from llmrun.runner.kv_cache import blocks_for
from llmrun.runner.loader import load_model
from llmrun.runner.model import Model
from llmrun.runner.prompt_logits import prompt_logits
from llmrun.runner.registry import resolve
from llmrun.runner.tokenizer import Tokenizer

CHAPTERS = ("execmodel", "import", "naming", "objects", "types", "specialnames")  # prose rather than grammar


@dataclass(frozen=True)
class Change:
    """How much worse each token is foretold than with f16, in nats, and the KL divergence there; both (n,)."""

    losses: np.ndarray
    divergences: np.ndarray

    @property
    def perplexity(self) -> float:
        """The relative change of perplexity."""
        return float(np.expm1(self.losses.mean()))

    @property
    def error(self) -> float:
        """The standard error of that change."""
        return float(self.losses.std(ddof=1) / np.sqrt(len(self.losses)))

    @property
    def divergence(self) -> float:
        """The mean KL divergence from f16."""
        return float(self.divergences.mean())


def windows(tokenizer: Tokenizer, n_windows: int, length: int) -> list[list[int]]:
    """Parts of the text, evenly spread, each of `length` ids and the one that follows."""
    ids = tokenizer.encode("\n\n".join(topics[name] for name in CHAPTERS), add_special=False)
    first = tokenizer.encode("")  # what every text begins with
    n_own = length + 1 - len(first)
    starts = np.linspace(0, len(ids) - n_own, n_windows).astype(int)
    assert n_windows < 2 or starts[1] >= n_own, "the windows overlap"
    return [first + ids[start : start + n_own] for start in starts.tolist()]


def changes(gguf: GGUFFile, kv_types: Sequence[str], n_windows: int, length: int, n_threads: int) -> dict[str, Change]:
    """What each type changes."""
    models = [load_model(gguf, n_threads, kv_type=name) for name in (DEFAULT, *kv_types)]
    for model in models:
        model.allocate_kv(blocks_for(length) + ring_blocks(model.residual_blocks))
    found: dict[str, tuple[list[np.ndarray], list[np.ndarray]]] = {name: ([], []) for name in kv_types}
    for ids in windows(Tokenizer.from_gguf(gguf.metadata), n_windows, length):
        for base, *others in _log_probabilities(models, ids[:-1], ids[1:]):
            probabilities = np.exp(base.all)
            for name, other in zip(kv_types, others, strict=True):
                found[name][0].append(base.of_targets - other.of_targets)
                found[name][1].append(np.vecdot(probabilities, base.all - other.all))
    for model in models:
        model.close()
    return {name: Change(*(np.concatenate(parts) for parts in lists)) for name, lists in found.items()}


@dataclass(frozen=True)
class _Chunk:
    all: np.ndarray  # (n, n_vocab) float32
    of_targets: np.ndarray  # (n,) float64


def _log_probabilities(models: Sequence[Model], ids: list[int], targets: list[int]) -> Iterator[list[_Chunk]]:
    """Logarithms of probabilities by every model, a chunk of positions at a time."""
    done = 0
    for logits in zip(*(prompt_logits(model, ids) for model in models), strict=True):
        chunks = []
        for rows in logits:
            shifted = rows - rows.max(axis=-1, keepdims=True)
            # summed up in float64: an error that all tokens share would not average out
            shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True, dtype=np.float64)).astype(np.float32)
            wanted = targets[done : done + len(rows)]
            chunks.append(_Chunk(shifted, shifted[np.arange(len(rows)), wanted].astype(np.float64)))
        done += len(chunks[0].all)
        yield chunks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="path of a GGUF file, or a name of models.toml")
    parser.add_argument("--windows", type=int, metavar="N", default=8, help="parts of the text; default: %(default)s")
    parser.add_argument("--length", type=int, metavar="N", default=1024, help="tokens of each; default: %(default)s")
    parser.add_argument("--threads", type=int, metavar="N", default=1, help="of each model; default: %(default)s")
    options = parser.parse_args()
    names = [name for name in KV_TYPES if name != DEFAULT]
    with GGUFFile.open(resolve(options.model)) as gguf:
        found = changes(gguf, names, options.windows, options.length, options.threads)
    print(f"{options.windows * options.length} positions\n")
    print("| keys and values | of f16's memory | perplexity | standard error | mean KL |\n|---|---|---|---|---|")
    for name, change in found.items():
        share = KV_TYPES[name].dim_bytes / KV_TYPES[DEFAULT].dim_bytes
        print(f"| {name} | {share:.3f} | {change.perplexity:+.3%} | {change.error:.3%} | {change.divergence:.1e} |")


if __name__ == "__main__":
    main()
