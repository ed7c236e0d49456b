"""Greedy answers of llmrun and llama.cpp side by side, and how far they are the same, as a page in Markdown."""

import argparse
from itertools import takewhile
from pathlib import Path

from peer import Peer

from llmrun.runner import Engine, SamplingParams
from llmrun.runner.registry import resolve

PROMPTS = Path(__file__).parent.parent / "tests" / "prompts.txt"
N_CTX = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", help="paths of GGUF files, or names of models.toml")
    parser.add_argument("--peer-python", metavar="PATH", required=True, help="a Python that has llama-cpp-python")
    parser.add_argument("--tokens", type=int, metavar="N", default=64, help="of each answer; default: %(default)s")
    parser.add_argument("--threads", type=int, metavar="N", default=1, help="of each runner; default: %(default)s")
    options = parser.parse_args()
    prompts = PROMPTS.read_text(encoding="utf-8").splitlines()
    for model in options.models:
        path = resolve(model)
        with (
            Engine.load(path, N_CTX, options.threads) as engine,
            Peer(options.peer_python, path, options.threads, N_CTX) as peer,
        ):
            print(f"\n## {engine.model.config.name}\n\n| same | prompt | llmrun | llama.cpp |\n|---|---|---|---|")
            for prompt in prompts:
                print(_row(engine, peer, prompt, options.tokens), flush=True)


def _row(engine: Engine, peer: Peer, prompt: str, n: int) -> str:
    ids = engine.tokenize(prompt)
    theirs = peer.greedy(ids, n)
    generation = engine.generate(ids, SamplingParams(temperature=0, max_tokens=n))
    for _ in generation:
        pass
    ours = list(generation.ids)
    stop_ids = engine.tokenizer.stop_ids
    ours, theirs = ([token for token in answer if token not in stop_ids] for answer in (ours, theirs))
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ours, theirs, strict=False)))
    mark = "all" if ours == theirs else str(same)
    texts = (_cell(engine.tokenizer.decode(answer)) for answer in (ours, theirs))
    return f"| {mark} of {len(ours)} | {_cell(prompt)} | {' | '.join(texts)} |"


def _cell(text: str) -> str:
    """A text as code in a cell of a table."""
    return "`" + text.replace("`", "'").replace("|", "\\|").replace("\n", "\u23ce") + "`"


if __name__ == "__main__":
    main()
