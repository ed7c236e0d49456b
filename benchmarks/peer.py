"""llama.cpp as seen from a benchmark: a process that loads the model once and then answers commands."""

import json
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

CHUNK_TOKENS = 128


class Peer:
    """A running `peer_worker.py`; it sleeps between commands, so that it takes no time from whoever is measured."""

    def __init__(self, python: str, model: Path, n_threads: int, n_ctx: int) -> None:
        worker = Path(__file__).with_name("peer_worker.py")
        self._process = subprocess.Popen(
            [python, str(worker), str(model), str(n_threads), str(n_ctx)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.about = self._answer()

    def prefill(self, tokens: Sequence[int]) -> float:
        """Seconds to run a prompt in an empty context."""
        return float(self._ask("prefill", tokens=list(tokens))["seconds"])

    def decode(self, depth: int, tokens: Sequence[int]) -> float:
        """Seconds to run tokens one at a time after the first `depth` tokens of what is in the context."""
        return float(self._ask("decode", depth=depth, tokens=list(tokens))["seconds"])

    def decode_together(self, n_sequences: int, tokens: Sequence[int]) -> float:
        """Seconds to run the same tokens one at a time in each of many sequences, which begin empty."""
        return float(self._ask("decode_together", n_sequences=n_sequences, tokens=list(tokens))["seconds"])

    def save_state(self, tokens: Sequence[int], file: Path) -> float:
        """Seconds to write what is in the context, that of these tokens, to a file."""
        return float(self._ask("save_state", tokens=list(tokens), file=str(file))["seconds"])

    def load_state(self, n_tokens: int, file: Path) -> tuple[float, float]:
        """Seconds to make a context and read a file of so many tokens into it, and to read it again."""
        new, again = self._ask("load_state", n_tokens=n_tokens, file=str(file))["seconds"]
        return new, again

    def greedy(self, tokens: Sequence[int], n: int) -> list[int]:
        """The ids that follow when the likeliest is always taken, the one that ends the text included."""
        return list(self._ask("greedy", tokens=list(tokens), n=n)["ids"])

    def prompt_logits(self, tokens: Sequence[int], single: bool = False) -> Iterator[np.ndarray]:
        """The logits after every token of a text, in chunks (n, n_vocab); `single` as decoding computes them."""
        self._ask("clear")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "logits.npy"
            for first in range(0, len(tokens), CHUNK_TOKENS):
                chunk = list(tokens[first : first + CHUNK_TOKENS])
                self._ask("logits", tokens=chunk, file=str(file), single=single)
                yield np.load(file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()

    def _ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([command, arguments]) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the peer ended with status {self._process.wait()}; what it said is above")
        answer: dict[str, Any] = json.loads(line)
        return answer
