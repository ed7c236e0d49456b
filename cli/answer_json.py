"""An answer as an object, for `llmrun run --json`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmrun.runner.generation import Generation


def answer_json(generation: "Generation", model: str, load_seconds: float, session: str | None) -> dict[str, Any]:
    """What was said, why it ended and what it took; times in seconds, speeds in tokens per second.

    `prompt_tokens` counts the whole prompt, `cached_tokens` those of it that needed no computing.
    """
    stats = generation.stats
    return {
        "model": model,
        "session": session,
        "answer": generation.text,
        "finish_reason": generation.finish_reason,
        "seed": generation.seed,
        "prompt_tokens": stats.n_prompt,
        "cached_tokens": stats.n_cached,
        "answer_tokens": stats.n_generated,
        "load_seconds": round(load_seconds, 6),
        "first_token_seconds": round(stats.t_first_token, 6),
        "prefill_seconds": round(stats.t_prefill, 6),
        "decode_seconds": round(stats.t_decode, 6),
        "prefill_tokens_per_second": round(stats.prefill_tokens_per_second, 3),
        "decode_tokens_per_second": round(stats.decode_tokens_per_second, 3),
    }
