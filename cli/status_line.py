"""One line about the chat: the model, how full the context is, how fast the last answer came."""

from llmrun.cli.markdown_text import Row, Span, Style, row_width

CELLS = 10  # of the meter
NEARLY_FULL = 0.85


def status_line(model: str, n_tokens: int, n_ctx: int, tokens_per_second: float, name: str, columns: int) -> Row:
    """The line, with as many of its parts as there is room for; the first are the most important."""
    share = min(1.0, n_tokens / n_ctx)
    style: Style = ("warning",) if share >= NEARLY_FULL else ("dim",)
    texts: list[Span] = [(f"{meter(share)} {n_tokens:,} of {n_ctx:,} tokens", style), (model, ("dim",))]
    if tokens_per_second:
        texts.append((f"{tokens_per_second:.0f} tok/s", ("dim",)))
    if name:
        texts.append((name, ("dim",)))
    line: Row = []
    for text in texts:
        longer = [*line, (" · ", ("dim",)), text] if line else [text]
        if row_width(longer) < columns:
            line = longer
    return line


def meter(share: float) -> str:
    """A bar that is full at 1."""
    full = round(share * CELLS)
    if share > 0:
        full = max(1, full)
    return "█" * full + "░" * (CELLS - full)
