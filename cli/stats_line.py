"""The last line of an answer: why it ended, where that is not plain, and how fast it was."""

from typing import TYPE_CHECKING

from llmrun.cli.say import say

if TYPE_CHECKING:
    from llmrun.runner.engine import Engine
    from llmrun.runner.generation import Generation


def print_ending(generation: "Generation", engine: "Engine", with_stats: bool) -> None:
    """Say on standard error if the context is full, and the statistics if they are wanted."""
    if generation.finish_reason == "context":
        more = "--ctx gives more, --overflow shift goes on"
        say(f"the answer ends here because the context of {engine.n_ctx} tokens is full; {more}")
    if with_stats:
        say(stats_line(generation))


def stats_line(generation: "Generation") -> str:
    """Token counts, speeds and the time to the first token, in one line."""
    stats = generation.stats
    cached = f" + {stats.n_cached} from the cache" if stats.n_cached else ""
    parts = [f"prompt {stats.n_prompt - stats.n_cached} tokens{cached}, {_rate(stats.prefill_tokens_per_second)}"]
    parts.append(f"answer {stats.n_generated} tokens, {_rate(stats.decode_tokens_per_second)}")
    parts.append(f"{stats.decode_ms_per_token:.2f} ms/token; first token after {stats.t_first_token:.3f} s")
    return "; ".join(parts)


def _rate(tokens_per_second: float) -> str:
    return f"{tokens_per_second:.1f} tok/s"
