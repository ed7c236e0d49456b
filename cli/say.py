"""What llmrun says beside the answer: one line at a time, on standard error, so that standard output stays clean."""

import sys


def say(text: str) -> None:
    """Print one line for the user that is not part of the answer."""
    print(f"llmrun: {one_line(text)}", file=sys.stderr, flush=True)


def one_line(text: str) -> str:
    """The text with its line breaks and runs of spaces made single spaces, control characters made visible."""
    joined = " ".join(text.split())
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in joined)


def human_bytes(n: float) -> str:
    """A number of bytes for people: 98.4 MB, 1.2 GB (powers of 1000, as disks and downloads are counted)."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} B" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} TB"


def human_count(n: float) -> str:
    """A count for people: 134.5 M, 8.0 B."""
    for unit in ("", " k", " M", " B"):
        if n < 1000:
            return f"{n:.0f}" if unit == "" else f"{n:.1f}{unit}"
        n /= 1000
    return f"{n:.1f} T"
