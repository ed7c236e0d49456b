"""The lines of Ollama's answers, as dictionaries whose order is that of the JSON."""

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from llmrun.cli.server.json_text import compact
from llmrun.runner.piece import Piece
from llmrun.runner.stats import Stats
from llmrun.runner.tokenizer import Tokenizer

DONE_REASONS = {"stop": "stop", "tool_calls": "stop", "length": "length", "context": "length"}
"""Why an answer ended, in Ollama's words."""


def now() -> str:
    """The time, as Ollama writes it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def line(value: dict[str, Any]) -> bytes:
    """One line of NDJSON."""
    return compact(value).encode() + b"\n"


def generate_part(model: str, text: str, thinking: str = "", logprobs: Sequence[dict] = ()) -> dict[str, Any]:
    """One line of /api/generate while the answer goes on."""
    part: dict[str, Any] = {"model": model, "created_at": now(), "response": text}
    if thinking:
        part["thinking"] = thinking
    part["done"] = False
    if logprobs:
        part["logprobs"] = list(logprobs)
    return part


def chat_part(
    model: str, text: str, thinking: str = "", tool_calls: Sequence[dict] = (), logprobs: Sequence[dict] = ()
) -> dict[str, Any]:
    """One line of /api/chat while the answer goes on."""
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if thinking:
        message["thinking"] = thinking
    if tool_calls:
        message["tool_calls"] = list(tool_calls)
    part: dict[str, Any] = {"model": model, "created_at": now(), "message": message, "done": False}
    if logprobs:
        part["logprobs"] = list(logprobs)
    return part


def tool_call(call_id: str, index: int, name: str, arguments: str) -> dict[str, Any]:
    """One call of a tool; `arguments` is JSON, and becomes an object."""
    return {"id": call_id, "function": {"index": index, "name": name, "arguments": json.loads(arguments or "{}")}}


def done(part: dict[str, Any], reason: str, measured: dict[str, int] | None = None) -> dict[str, Any]:
    """Make a part the last line: why the answer ended, and the numbers of `metrics`."""
    return part | {"done": True, "done_reason": reason} | (measured or {})


def metrics(stats: Stats, load: float, total: float) -> dict[str, int]:
    """Counts and durations; `load` and `total` are in seconds, the result is in nanoseconds."""
    return {
        "total_duration": nanoseconds(total),
        "load_duration": nanoseconds(load),
        "prompt_eval_count": stats.n_prompt,
        "prompt_eval_duration": nanoseconds(stats.t_prefill),
        "eval_count": stats.n_generated,
        "eval_duration": nanoseconds(stats.t_decode),
    }


def nanoseconds(seconds: float) -> int:
    """Seconds as whole nanoseconds."""
    return round(seconds * 1e9)


def logprob_entries(pieces: Iterable[Piece], tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """The log probabilities of the pieces that have some."""
    entries = []
    for piece in pieces:
        if piece.logprobs is not None:
            top = [_logprob(token, value, tokenizer) for token, value in piece.logprobs.top]
            entry = _logprob(piece.id, piece.logprobs.chosen, tokenizer)
            entries.append(entry | ({"top_logprobs": top} if top else {}))
    return entries


def _logprob(token: int, value: float, tokenizer: Tokenizer) -> dict[str, Any]:
    data = tokenizer.token_bytes(token)
    return {"token": data.decode("utf-8", "replace"), "logprob": value, "bytes": list(data)}
