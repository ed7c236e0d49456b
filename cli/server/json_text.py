"""JSON as the server writes it: compact, and safe for clients that read line by line."""

import json
from json.encoder import encode_basestring
from typing import Any

# JSON needs no escapes for these, but Python's str.splitlines, which many clients read streams with, ends a line there
_LINE_ENDS = str.maketrans({"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"})


def quoted(text: str) -> str:
    """Write a string as JSON, with its quotes."""
    written = encode_basestring(text)
    return written if written.isascii() else written.translate(_LINE_ENDS)


def compact(value: Any) -> str:
    """Write a value as JSON on one line; NaN and infinities are a bug of the caller."""
    written = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return written if written.isascii() else written.translate(_LINE_ENDS)
