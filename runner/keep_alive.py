"""How long a model stays loaded after its last request."""

import math
import re

from llmrun.quant_formats.errors import UsageError

DEFAULT_KEEP_ALIVE = 300.0  # seconds

_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_WHOLE = re.compile(rf"(?:{_PART.pattern})+")
_NUMBER = re.compile(r"\d+(?:\.\d*)?")


def keep_alive_seconds(value: str | float) -> float:
    """Seconds of a number, or of a text such as "90", "5m" or "1h30m" (a Go duration); infinity for a negative one.

    Raises UsageError for anything else.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    else:
        seconds = _read(str(value).strip())
    if math.isnan(seconds):
        raise UsageError(f'keep_alive must be seconds or a duration such as "5m", not {str(value)[:40]!r}')
    return math.inf if seconds < 0 else seconds


def _read(text: str) -> float:
    digits = text.lstrip("+-")
    sign = -1.0 if text.startswith("-") else 1.0
    if len(text) - len(digits) > 1 or len(digits) > 40:
        return math.nan
    if _NUMBER.fullmatch(digits):
        return sign * float(digits)
    if not _WHOLE.fullmatch(digits):
        return math.nan
    return sign * sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(digits))
