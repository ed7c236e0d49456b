"""Prepares a JSON schema for llguidance: what would not be enforced exactly is refused, by name and place."""

import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any
from urllib.parse import unquote

from llmrun.quant_formats.errors import UsageError
from llmrun.runner.json_pattern import translate_pattern

# White space is allowed where JSON allows it, but never enough of it to fill an answer.
_OPTIONS = {
    "item_separator": ",",
    "key_separator": ":",
    "whitespace_pattern": r"\x20|\n[\x20\t]{0,20}",
    "coerce_one_of": False,
    "lenient": False,
}
_NOT_ENFORCED = frozenset((
    "not", "if", "then", "else", "contains", "minContains", "maxContains", "uniqueItems", "propertyNames",
    "dependencies", "dependentRequired", "dependentSchemas", "unevaluatedItems", "unevaluatedProperties",
    "$dynamicRef", "$recursiveRef",
))  # fmt: skip
_FORMATS = frozenset(("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"))
_LIMITS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_MERGES = frozenset(("allOf", "anyOf", "oneOf", "$ref"))  # where two schemas may hold for one value
_LARGEST_MULTIPLE = 100_000  # of which the automaton has as many states: 0.5 s
_LARGEST_EXACT = 1 << 53
_DEEPEST = 100
_SHOWN = 100  # characters of a place


def prepare_schema(schema: object, bounded: bool = False) -> dict[str, Any]:
    """The schema as llguidance takes it, with our rules for white space; not changed itself.

    bounded: keep whole numbers within 2**53 and others within nine decimals where the schema sets no limits, because a
    small model may write digits without end. What is left validates all the same, but a schema that needs more may
    have nothing left; and llguidance has to see the other first, to judge whether the choices of a oneOf overlap.

    Raises UsageError for a keyword or a value that cannot be enforced; llguidance finds what is malformed.
    """
    if isinstance(schema, bool):
        schema = {} if schema else {"allOf": [False]}
    if not isinstance(schema, dict):
        raise UsageError(f"a JSON schema is an object, true or false, not {type(schema).__name__}")
    prepared: dict[str, Any] = _copy(schema)
    multiples: list[Fraction] = []
    merges = False
    parts = list(_schemas(prepared))
    for place, part in parts:
        if part.get("uniqueItems") is False:  # says nothing
            del part["uniqueItems"]
        _check(place if len(place) <= _SHOWN else "..." + place[-_SHOWN:], part)
        merges = merges or not _MERGES.isdisjoint(part)
        if _is_number(part.get("multipleOf")):
            multiples.append(Fraction(str(part["multipleOf"])))
    _check_multiples(multiples, merges)
    for place, part in parts:
        _translate_patterns(part, place)
        if bounded and not (merges and multiples):  # whose least common multiple may be too much
            _bound_numbers(part)
    return prepared | {"x-guidance": _OPTIONS}


def _schemas(root: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema within a schema that counts, with its place; definitions only where something refers to them."""
    seen: set[int] = set()
    waiting: list[tuple[str, object]] = [("#", root)]
    while waiting:
        place, part = waiting.pop()
        if not isinstance(part, dict) or id(part) in seen:
            continue
        seen.add(id(part))
        yield place, part
        if (reference := part.get("$ref")) is not None:
            waiting.append((str(reference), _resolve(root, reference, place)))
        for name, value in part.items():
            if name in ("properties", "patternProperties") and isinstance(value, dict):
                waiting += ((f"{place}/{name}/{key}", inner) for key, inner in value.items())
            elif name in ("allOf", "anyOf", "oneOf", "prefixItems", "items") and isinstance(value, list):
                waiting += ((f"{place}/{name}/{i}", inner) for i, inner in enumerate(value))
            elif name in ("items", "additionalItems", "additionalProperties"):
                waiting.append((f"{place}/{name}", value))


def _resolve(root: dict[str, Any], reference: object, place: str) -> object:
    """What a reference within the schema refers to."""
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        raise UsageError(f"$ref {reference!r:.80} at {place}: only references within the schema, #/..., are supported")
    part: Any = root
    for segment in reference.split("/")[1:]:
        key = unquote(segment).replace("~1", "/").replace("~0", "~")
        if isinstance(part, list) and key.isdecimal() and int(key) < len(part):
            part = part[int(key)]
        elif isinstance(part, dict) and key in part:
            part = part[key]
        else:
            raise UsageError(f"$ref {reference!r:.80} at {place}: there is nothing of that name in the schema")
    return part


def _check(place: str, part: Mapping[str, Any]) -> None:
    for name in part:
        if name in _NOT_ENFORCED:
            raise UsageError(f"the JSON schema's {name} at {place} is not supported; leave it out")
    if place != "#" and isinstance(part.get("$id"), str):
        raise UsageError(f"the JSON schema's $id at {place} is not supported below the top; leave it out")
    if (kind := part.get("format")) is not None and str(kind) not in _FORMATS:
        known = ", ".join(sorted(_FORMATS))
        raise UsageError(f"the JSON schema's format {kind!r:.40} at {place} is not supported; known ones: {known}")
    least, required = part.get("minProperties"), part.get("required")
    if isinstance(least, int) and least > 1 + (len(set(map(str, required))) if isinstance(required, list) else 0):
        # nothing keeps a model from writing a name twice, which a reader counts once
        raise UsageError(f"the JSON schema's minProperties at {place} can be at most one more than what is required")
    for name in (*_LIMITS, "multipleOf"):
        if name in part:
            _check_exact(part[name], name, place)
    _check_exact(part.get("const"), "const", place)
    _check_exact(part.get("enum"), "enum", place)


def _bound_numbers(part: dict[str, Any]) -> None:
    kinds = part.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if ("integer" not in kinds and "number" not in kinds) or not {"const", "enum"}.isdisjoint(part):
        return
    limits = [part[name] for name in _LIMITS if name in part]
    if not all(_is_number(limit) and abs(limit) < _LARGEST_EXACT and limit == round(limit, 6) for limit in limits):
        return
    if "number" in kinds:
        part.setdefault("multipleOf", 1e-9)
    for side, sign in (("inimum", -1), ("aximum", 1)):
        if f"m{side}" not in part and f"exclusiveM{side}" not in part:
            part[f"m{side}"] = sign * (_LARGEST_EXACT - 1)


def _translate_patterns(part: dict[str, Any], place: str) -> None:
    """Say the patterns of a schema in llguidance's notation."""
    if isinstance(part.get("pattern"), str):
        part["pattern"] = translate_pattern(part["pattern"], place)
    if isinstance(named := part.get("patternProperties"), dict):
        part["patternProperties"] = {translate_pattern(name, place): inner for name, inner in named.items()}


def _check_exact(value: object, name: str, place: str) -> None:
    """Whole numbers pass through floats of 53 bits."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, int) and abs(value) > _LARGEST_EXACT:
            raise UsageError(f"the JSON schema's {name} at {place} has a number beyond 2**53, which is not supported")


def _check_multiples(multiples: list[Fraction], merges: bool) -> None:
    common = Fraction(1, math.lcm(*(multiple.denominator for multiple in multiples)))
    counts = [multiple / common for multiple in multiples]  # whole numbers
    groups = [counts] if merges else [[count] for count in counts]
    for group in groups:
        lcm = math.lcm(*(int(abs(count)) for count in group)) * common
        if lcm.numerator > _LARGEST_MULTIPLE:
            raise UsageError(
                "the JSON schema's multipleOf is not supported for numbers with more than five digits, nor for several "
                "numbers without common factors"
            )


def _copy(part: Any, depth: int = 0) -> Any:
    if depth > _DEEPEST:
        raise UsageError(f"the JSON schema is nested more than {_DEEPEST} levels deep; use $ref")
    if isinstance(part, list):
        return [_copy(inner, depth + 1) for inner in part]
    if isinstance(part, dict):
        return {name: _copy(inner, depth + 1) for name, inner in part.items()}
    return part


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
