"""One continuation of a prompt, as the OpenAI API shows it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmrun.cli.server.openai_reply import TextLogprobs, TokenBytes
from llmrun.quant_formats.errors import EngineClosed
from llmrun.runner.piece import Piece, TokenLogprobs
from llmrun.runner.stream import Stream


@dataclass
class Prompt:
    """A prompt of a request."""

    text: str
    ids: list[int]
    scores: list[TokenLogprobs] | None = None
    """What the model thinks of the ids after the first, if that is asked for."""


class Completion:
    """An answer to a prompt; `stream` is None if only the prompt is asked for."""

    def __init__(
        self, prompt: Prompt, stream: Stream | None, echo: bool, n_top: int | None, tokenizer: TokenBytes
    ) -> None:
        self.prompt, self.stream = prompt, stream
        self.pieces: list[Piece] = []
        self._echo = echo
        self._logprobs = TextLogprobs(tokenizer, n_top) if n_top is not None else None

    def opening(self) -> tuple[str, dict[str, Any] | None]:
        """Text and log probabilities of the prompt, if it is to be repeated; comes before any `show`."""
        if not self._echo:
            return "", None
        prompt = self.prompt
        if self._logprobs is None or prompt.scores is None:
            return prompt.text, None
        first = (prompt.ids[0], None, ())
        rest = ((token, score.chosen, score.top) for token, score in zip(prompt.ids[1:], prompt.scores, strict=True))
        return prompt.text, self._logprobs.of([first, *rest])

    def show(self, pieces: Sequence[Piece]) -> tuple[str, dict[str, Any] | None]:
        """Text and log probabilities of some pieces."""
        text = "".join(piece.text for piece in pieces)
        if self._logprobs is None:
            return text, None
        scored = [(piece.id, piece.logprobs.chosen, piece.logprobs.top) for piece in pieces if piece.logprobs]
        return text, self._logprobs.of(scored)

    def choice(self, index: int) -> dict[str, Any]:
        """The whole of it, once it has ended and all pieces are in `pieces`."""
        text, logprobs = self.opening()
        more, more_logprobs = self.show(self.pieces)
        if logprobs is None:
            logprobs = more_logprobs
        elif more_logprobs is not None:
            logprobs = {name: _joined(logprobs[name], more_logprobs[name]) for name in logprobs}
        return {"index": index, "text": text + more, "logprobs": logprobs, "finish_reason": self.finish_reason}

    @property
    def finish_reason(self) -> str:
        """Why it ended."""
        if self.stream is None:
            return "length"
        return text_finish_reason(self.stream)

    @property
    def mean_logprob(self) -> float:
        """How likely the model finds it, a token; the best of several is the one with most."""
        scores = [piece.logprobs.chosen for piece in self.pieces if piece.logprobs]
        return sum(scores) / len(scores) if scores else 0.0


def _joined(first: list[Any] | None, second: list[Any] | None) -> list[Any] | None:
    return None if first is None or second is None else first + second


def text_finish_reason(stream: Stream) -> str:
    """Why a stream ended, in the words of the API; raises EngineClosed if it was cut short."""
    match stream.finish_reason:
        case "stop":
            return "stop"
        case "length" | "context":
            return "length"
    raise EngineClosed("the model is being unloaded; the answer is not complete")
