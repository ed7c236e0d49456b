"""The last line of an answer: why it ended, where that is not plain, and how fast it was."""

from typing import TYPE_CHECKING

from llmrun.cli.say import say

if TYPE_CHECKING:
    from llmrun.runner.engine import Engine
    from llmrun.runner.generation import Generation


def print_ending(generation: "Generation", engine: "Engine", with_stats: bool) -> None:
    """Say on standard error if the context is full, and the statistics if they are wanted."""
    if generation.finish_reason == "context":
        say(f"the answer ends here because the context of {engine.n_ctx} tokens is full; --ctx gives more")
    if with_stats:
        say(stats_line(generation))


def stats_line(generation: "Generation") -> str:
    """Token counts, speeds and the time to the first token, in one line."""
    stats = generation.stats
    line = f"prompt {stats.n_prompt} tokens"
    if stats.n_cached:
        line += f" ({stats.n_cached} from the cache)"
    return f"{line}, TODO"
