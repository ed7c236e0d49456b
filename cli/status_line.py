"""One line about the chat: the model, how full the context is, how fast the last answer came."""

from llmrun.cli.markdown_text import Row, row_width

CELLS = 10  # of the meter
NEARLY_FULL = 0.85


def status_line(model: str, n_tokens: int, n_ctx: int, tokens_per_second: float, name: str, columns: int) -> Row:
    """The line, with as many of its parts as there is room for; the first are the most important."""
    share = min(1.0, n_tokens / n_ctx)
    style = ("warning",) if share >= NEARLY_FULL else ("dim",)
    parts: list[Row] = [
        [(f"{meter(share)} {n_tokens:,} of {n_ctx:,} tokens", style)],
        [(model, ("dim",))],
        *([[(f"{tokens_per_second:.0f} tok/s", ("dim",))]] if tokens_per_second else []),
        *([[(name, ("dim",))]] if name else []),
    ]
    line: Row = []
    for part in parts:
        longer = [*line, (" · ", ("dim",)), *part] if line else part
        if row_width(longer) >= columns:
            break
        line = longer
    return line


def meter(share: float) -> str:
    """A bar that is full at 1."""
    full = round(share * CELLS)
    if share > 0:
        full = max(1, full)
    return "█" * full + "░" * (CELLS - full)
