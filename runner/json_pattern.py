"""Translates the patterns of JSON schemas, ECMAScript's, into llguidance's notation, Rust's."""

import re

from llmrun.quant_formats.errors import UsageError

_ATOM = re.compile(r"\\(?:x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|.)|.", re.DOTALL)
_NUL = ("\0", "\\0", "\\x00", "\\u0000")
_OPERATORS = ("&", "-", "~")  # doubled within square brackets they are Rust's and nothing in ECMAScript


def translate_pattern(pattern: str, place: str) -> str:
    r"""The same pattern for llguidance, but for U+0000, which no set of characters has any more.

    llguidance 1.9 takes `[^"]`, and any set that has all control characters but lacks the quotation mark or the
    backslash, for one that has both when it looks at JSON's escapes. A set without U+0000 is read right.
    Raises UsageError for a pattern that needs U+0000 or ends in the middle of an escape.
    """
    pieces: list[str] = []
    within = negated = False
    atoms = _ATOM.findall(pattern)
    if atoms[-1:] == ["\\"]:
        raise UsageError(f"the JSON schema's pattern at {place} ends in the middle of an escape")
    for i, atom in enumerate(atoms):
        begins_range = within and atoms[i + 1 : i + 2] == ["-"]
        if atom in _NUL and not negated and not begins_range:
            raise UsageError(f"the JSON schema's pattern at {place} needs the character U+0000, which is not supported")
        if not within:
            within = atom == "["
            pieces.append(atom)
        elif pieces[-1] == "[" and atom == "^":
            negated = True
            pieces.append("^\\x00")
        elif atom == "]":
            within = negated = False
            pieces.append(atom)
        elif atom == "[" or (atom in _OPERATORS and pieces[-1] == atom):
            pieces.append(f"\\{atom}")
        else:
            pieces.append((r"\x00" if negated else r"\x01") if atom in _NUL else atom)
    return "".join(pieces)
