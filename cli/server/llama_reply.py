"""The replies of llama-server's API, as dictionaries whose order is that of the JSON."""

from collections.abc import Iterable, Sequence
from typing import Any

from llmrun.cli.server.llama_sampling import samplers_of
from llmrun.runner.piece import Piece
from llmrun.runner.sampler import SamplingParams
from llmrun.runner.stats import Stats
from llmrun.runner.tokenizer import Tokenizer


def timings(stats: Stats) -> dict[str, float]:
    """How long the prompt and the answer took; the prompt's numbers leave out what was known of it."""
    n_prompt = stats.n_prompt - stats.n_cached
    prompt_ms, predicted_ms = 1000 * stats.t_prefill, 1000 * stats.t_decode
    return {
        "cache_n": stats.n_cached,
        "prompt_n": n_prompt,
        "prompt_ms": prompt_ms,
        "prompt_per_token_ms": prompt_ms / n_prompt if n_prompt else 0.0,
        "prompt_per_second": stats.prefill_tokens_per_second,
        "predicted_n": stats.n_generated,
        "predicted_ms": predicted_ms,
        "predicted_per_token_ms": stats.decode_ms_per_token,
        "predicted_per_second": stats.decode_tokens_per_second,
    }


def part(
    index: int, slot: int, text: str, ids: Sequence[int], n_predicted: int, n_prompt: int, stats: Stats | None = None
) -> dict[str, Any]:
    """One event of a stream while the answer goes on, with timings if there are `stats`."""
    event = {
        "index": index,
        "content": text,
        "tokens": list(ids),
        "stop": False,
        "id_slot": slot,
        "tokens_predicted": n_predicted,
        "tokens_evaluated": n_prompt,
    }
    return event if stats is None else event | {"timings": timings(stats)}


def final(
    index: int,
    slot: int,
    model: str,
    prompt: str,
    text: str,
    ids: Sequence[int],
    n_predicted: int,
    stats: Stats,
    ended: tuple[str, str],
    has_new_line: bool,
    truncated: bool,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """The whole reply, or the last event of a stream; `ended` is stop_type and stopping_word."""
    return {
        "index": index,
        "content": text,
        "tokens": list(ids),
        "id_slot": slot,
        "stop": True,
        "model": model,
        "tokens_predicted": n_predicted,
        "tokens_evaluated": stats.n_prompt,
        "generation_settings": settings,
        "prompt": prompt,
        "has_new_line": has_new_line,
        "truncated": truncated,
        "stop_type": ended[0],
        "stopping_word": ended[1],
        "tokens_cached": stats.n_cached,
        "timings": timings(stats) | {"predicted_n": n_predicted},
    }


def how_it_ended(reason: str, stop_string: str | None, cut_off: bool) -> tuple[str, str]:
    """stop_type and stopping_word of an answer; `cut_off` by a limit of lines or time."""
    if cut_off or reason in ("length", "context"):
        return "limit", ""
    if stop_string is not None:
        return "word", stop_string
    return ("eos", "") if reason == "stop" else ("none", "")


def settings(params: SamplingParams, n_predict: int, seed: int, n_ctx: int, model: str) -> dict[str, Any]:
    """`generation_settings`: what was truly applied."""
    return {
        "n_ctx": n_ctx,
        "n_predict": n_predict,
        "max_tokens": n_predict,
        "model": model,
        "seed": seed,
        "temperature": params.temperature,
        "top_k": params.top_k,
        "top_p": params.top_p,
        "min_p": params.min_p,
        "repeat_last_n": params.penalty_last_n,
        "repeat_penalty": params.repeat_penalty,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "typical_p": 1.0,
        "dynatemp_range": 0.0,
        "xtc_probability": 0.0,
        "dry_multiplier": 0.0,
        "mirostat": 0,
        "stop": list(params.stop),
        "logit_bias": [{"token": t, "bias": max(bias, -1e9)} for t, bias in params.logit_bias.items()],
        "n_probs": params.logprobs or 0,
        "samplers": samplers_of(params),
    }


def probabilities(pieces: Iterable[Piece], tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """`completion_probabilities` of the pieces that have some."""
    entries = []
    for piece in pieces:
        if piece.logprobs is not None:
            top = [_token(token, value, tokenizer) for token, value in piece.logprobs.top]
            entries.append(_token(piece.id, piece.logprobs.chosen, tokenizer) | {"top_logprobs": top})
    return entries


def select(reply: dict[str, Any], fields: Sequence[str] | None) -> dict[str, Any]:
    """Only the named fields, in their order; one that is not there is left out, `a/b` is field b of a."""
    if not fields:
        return reply
    selected = {}
    for path in fields:
        value: Any = reply
        for name in path.split("/"):
            if not isinstance(value, dict) or name not in value:
                break
            value = value[name]
        else:
            selected[path.rsplit("/", 1)[-1]] = value
    return selected


def _token(token: int, logprob: float, tokenizer: Tokenizer) -> dict[str, Any]:
    data = tokenizer.token_bytes(token)
    return {"id": token, "token": data.decode("utf-8", "replace"), "bytes": list(data), "logprob": logprob}
