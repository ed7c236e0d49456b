"""The parts that replies of the OpenAI API share: ids, usage, timings, log probabilities."""

import math
import secrets
import time
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from fastapi.responses import Response

from llmrun.cli.server.json_text import compact
from llmrun.runner.engine import Engine
from llmrun.runner.model_host import LoadedModel
from llmrun.runner.piece import Piece
from llmrun.runner.stats import Stats

DONE = b"data: [DONE]\n\n"

_LOWEST = -9999.0  # what the API writes for a probability of nothing, because JSON has no infinity


class TokenBytes(Protocol):
    """What of a tokenizer is needed here."""

    def token_bytes(self, token: int) -> bytes:
        """Bytes that an id stands for."""
        ...


def envelope(prefix: str, kind: str, model: LoadedModel) -> dict[str, Any]:
    """What a reply and each of its chunks begin with."""
    return {
        "id": f"{prefix}-{secrets.token_hex(12)}",
        "object": kind,
        "created": now(),
        "model": model.name,
        "system_fingerprint": fingerprint(model.engine),
    }


def now() -> int:
    """Return the time of a reply, in seconds since 1970."""
    return int(time.time())


def fingerprint(engine: Engine) -> str:
    """Return what changes whenever the same request may get another answer: with the model, and with llmrun."""
    return f"fp_{engine.fingerprint[:12]}"


def json_response(reply: dict[str, Any]) -> Response:
    """Make a response of a reply that is not streamed."""
    return Response(compact(reply), media_type="application/json")


def usage(n_prompt: int, n_cached: int, n_generated: int, n_reasoning: int = 0) -> dict[str, Any]:
    """Return the object `usage`: how many tokens were read, of these were known already, and were written."""
    return {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_generated,
        "total_tokens": n_prompt + n_generated,
        "prompt_tokens_details": {"cached_tokens": n_cached},
        "completion_tokens_details": {"reasoning_tokens": n_reasoning},
    }


def timings(stats: Sequence[Stats]) -> dict[str, Any]:
    """Return the object `timings` as llama-server writes it, of the answers to one request together.

    Answers are computed at the same time, so their counts add up and the longest time counts.
    """
    n_prompt = sum(one.n_prompt - one.n_cached for one in stats)
    n_generated = sum(one.n_generated for one in stats)
    t_prefill = max(one.t_prefill for one in stats)
    t_decode = max(one.t_decode for one in stats)
    n_decoded = sum(max(one.n_generated - 1, 0) for one in stats)  # the first id of each comes of the prompt
    return {
        "cache_n": sum(one.n_cached for one in stats),
        "prompt_n": n_prompt,
        "prompt_ms": round(1000 * t_prefill, 3),
        "prompt_per_second": round(n_prompt / t_prefill, 3) if t_prefill else 0.0,
        "predicted_n": n_generated,
        "predicted_ms": round(1000 * t_decode, 3),
        "predicted_per_second": round(n_decoded / t_decode, 3) if t_decode else 0.0,
    }


def chat_logprobs(pieces: Iterable[Piece], tokenizer: TokenBytes) -> dict[str, Any]:
    """Return the object `logprobs` of a chat completion's choice."""
    content: list[dict[str, Any]] = []
    for piece in pieces:
        if piece.logprobs is not None:
            entry = _entry(piece.id, piece.logprobs.chosen, tokenizer)
            entry["top_logprobs"] = [_entry(token, value, tokenizer) for token, value in piece.logprobs.top]
            content.append(entry)
    return {"content": content, "refusal": None}


def _entry(token: int, value: float, tokenizer: TokenBytes) -> dict[str, Any]:
    data = tokenizer.token_bytes(token)
    return {"token": data.decode("utf-8", "replace"), "logprob": finite(value), "bytes": list(data)}


class TextLogprobs:
    """The object `logprobs` of a completion's choice: parallel lists over its tokens.

    A token that is not whole characters is written as `bytes:\\xe2\\x82`. The log probability of a prompt's first
    token, which follows nothing, is null.
    """

    def __init__(self, tokenizer: TokenBytes, n_top: int, offset: int = 0) -> None:
        """`offset` is where in the choice's text the next token begins, in characters."""
        self._tokenizer = tokenizer
        self._n_top = n_top
        self._offset = offset
        self._pending = b""  # bytes of a character that is not complete

    def of(self, tokens: Iterable[tuple[int, float | None, Sequence[tuple[int, float]]]]) -> dict[str, Any]:
        """Return the lists for the next tokens, each an id, its log probability, and the likeliest ids with theirs."""
        lists: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for token, value, top in tokens:
            lists["tokens"].append(self._name(token))
            lists["token_logprobs"].append(None if value is None else finite(value))
            lists["top_logprobs"].append(None if value is None else self._top(token, value, top))
            lists["text_offset"].append(self._offset)
            self._advance(token)
        if self._n_top == 0:
            lists["top_logprobs"] = None
        return lists

    def _top(self, token: int, value: float, top: Sequence[tuple[int, float]]) -> dict[str, float]:
        named = {self._name(other): finite(logprob) for other, logprob in reversed(top)}  # of one name, the best stays
        best_first = dict(reversed(named.items()))
        return best_first if self._name(token) in best_first else best_first | {self._name(token): finite(value)}

    def _name(self, token: int) -> str:
        data = self._tokenizer.token_bytes(token)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)

    def _advance(self, token: int) -> None:
        self._pending += self._tokenizer.token_bytes(token)
        try:
            self._offset += len(self._pending.decode())
            self._pending = b""
        except UnicodeDecodeError as error:
            if error.reason != "unexpected end of data":
                self._offset += len(self._pending.decode("utf-8", "replace"))
                self._pending = b""


def finite(logprob: float) -> float:
    """Return a log probability that JSON can hold, rounded to what single precision means."""
    return max(round(logprob, 6), _LOWEST) if logprob > -math.inf else _LOWEST
