"""Reading the body of a request as JSON, by stricter rules than Python's."""

import json
import math
import re
from typing import Any, Never

from fastapi import HTTPException, Request
from starlette.types import Scope

MAX_DEPTH = 100  # of arrays and objects; schemas of tools reach 20

# bodies that `curl -d` and old clients send; pages of others are kept out by their Origin, not by this
PLAIN_TYPES = (b"", b"application/x-www-form-urlencoded", b"text/plain", b"application/octet-stream")

_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_BRACKETS = re.compile(_STRING + rb"|[\[{]|[\]}]", re.DOTALL)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class JsonRequest(Request):
    """A request whose body is UTF-8 JSON without duplicate names, NaN, half characters or deep nesting."""

    async def json(self) -> Any:
        """The body; raises HTTPException 400, which says what is wrong with it."""
        return parse_json(await self.body())


def parse_json(body: bytes) -> Any:
    """The value of a JSON text; raises HTTPException 400, which says what is wrong with it."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _bad(f"the body is not UTF-8: byte {error.start} is 0x{body[error.start]:02x}") from None
    _check_depth(body)
    try:
        value = json.loads(
            text, object_pairs_hook=_object, parse_constant=_no_constant, parse_float=_finite, parse_int=_whole
        )
    except json.JSONDecodeError as error:
        raise _bad(f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    if _SURROGATE.search(body):
        _check_characters(value)
    return value


def _check_depth(body: bytes) -> None:
    """Refuse nesting that recursion would not survive, before anything recurses."""
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return
    depth = 0
    for match in _BRACKETS.finditer(body):
        token = match[0]
        if token in (b"[", b"{"):
            depth += 1
            if depth > MAX_DEPTH:
                raise _bad(f"the body is nested more than {MAX_DEPTH} levels deep")
        elif token in (b"]", b"}"):
            depth -= 1


def _check_characters(value: Any) -> None:
    """Refuse half of a pair of surrogates, which is no character and cannot be written as UTF-8."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise _bad("the body has a \\u escape that is half of a character") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise _bad(f"the body has {json.dumps(twice[:60])} twice in one object")
    return members


def _no_constant(name: str) -> Never:
    raise _bad(f"the body has {name}, which is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise _bad("the body has a number that is too large")
    return number


def _whole(digits: str) -> int:
    if len(digits) > 40:
        raise _bad("the body has a number that is too large")
    return int(digits)


def _bad(message: str) -> HTTPException:
    return HTTPException(400, message)


def read_as_json(scope: Scope) -> Scope:
    """The scope with the type application/json for a body that carries another plain one, or none.

    Raises HTTPException 415 for types that are certainly not JSON, such as uploads of forms.
    """
    if scope["method"] not in ("POST", "PUT", "PATCH", "DELETE"):
        return scope
    kind = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    essence = kind.split(b";")[0].strip().lower()
    if essence == b"application/json" or essence.endswith(b"+json"):
        return scope
    if essence not in PLAIN_TYPES:
        raise HTTPException(415, "the body must be JSON, with Content-Type: application/json")
    headers = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
    return {**scope, "headers": [*headers, (b"content-type", b"application/json")]}
