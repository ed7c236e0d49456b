"""Translates GBNF, the notation for grammars of llama.cpp, into llguidance's variety of Lark.

    root ::= "[" item ("," item)* "]"        start: R0 (R1 ...)
    item ::= [0-9]+ | root

llguidance reads a text as lexemes, each as long as possible, and parses those. So whatever is regular becomes one
lexeme, as long as it goes: a rule that does not lead back to itself, or a run of neighbours within one that does.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from llmrun.quant_formats.errors import UsageError

_LEXEME = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)
    | (?P<define>[A-Za-z0-9_-]+\s*::=)
    | (?P<name>[A-Za-z0-9_-]+)
    | (?P<literal>"(?:[^"\\]|\\.)*")
    | (?P<set>\[(?:[^\]\\]|\\.)*\])
    | (?P<repeat>[*+?]|\{\s*\d+\s*(?:,\s*\d*\s*)?\})
    | (?P<mark>[()|.])""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r'\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|([nrt\\"\[\]^-]))|([^\\])', re.DOTALL)
_NAMED = {"n": "\n", "r": "\r", "t": "\t"}
_DEEPEST = 200


@dataclass(frozen=True)
class _Text:
    """A literal, a set of characters or a dot, as a regular expression."""

    regex: str


@dataclass(frozen=True)
class _Reference:
    name: str


@dataclass(frozen=True)
class _Series:
    parts: tuple["_Node", ...]


@dataclass(frozen=True)
class _Choice:
    parts: tuple["_Node", ...]


@dataclass(frozen=True)
class _Repeat:
    part: "_Node"
    suffix: str  # *, +, ? or {least,most}


_Node = _Text | _Reference | _Series | _Choice | _Repeat


def gbnf_to_lark(text: str) -> str:
    """The same grammar for llguidance; raises UsageError for one that is malformed or has no rule `root`."""
    rules = _Parser(text).rules()
    if "root" not in rules:
        raise UsageError("the grammar has no rule named root")
    for name, rule in rules.items():
        for other in _references(rule):
            if other not in rules:
                raise UsageError(f"the grammar's rule {name} refers to {other}, which is not there")
    return _Writer(rules).write()


def escape_regex(text: str) -> str:
    """A regular expression that matches a text and nothing else, fit to stand between slashes."""
    return "".join(c if c.isascii() and c.isalnum() else f"\\x{{{ord(c):X}}}" for c in text)


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._lexemes = list(self._scan())
        self._at = 0
        self._depth = 0

    def rules(self) -> dict[str, _Node]:
        rules: dict[str, _Node] = {}
        while self._at < len(self._lexemes):
            name = self._take("define").removesuffix("::=").strip()
            if name in rules:
                raise UsageError(f"the grammar defines the rule {name} twice")
            rules[name] = self._choice()
        return rules

    def _scan(self) -> Iterator[tuple[str, str, int]]:
        at = 0
        while at < len(self._text):
            found = _LEXEME.match(self._text, at)
            if found is None:
                raise self._error(at)
            kind = found.lastgroup
            assert kind is not None
            if kind != "space":
                yield kind, found.group(), at
            at = found.end()

    def _choice(self) -> _Node:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise UsageError(f"the grammar has more than {_DEEPEST} brackets within each other")
        parts = [self._series()]
        while self._next() == ("mark", "|"):
            self._at += 1
            parts.append(self._series())
        self._depth -= 1
        return _Choice(tuple(parts)) if len(parts) > 1 else parts[0]

    def _series(self) -> _Node:
        parts: list[_Node] = []
        while True:
            kind, text = self._next()
            if kind in ("", "define") or (kind, text) in (("mark", "|"), ("mark", ")")):
                return _Series(tuple(parts))
            if kind == "repeat":
                if not parts:
                    raise self._error(self._lexemes[self._at][2])
                parts[-1] = _Repeat(parts[-1], re.sub(r"\s", "", text))
                self._at += 1
            else:
                parts.append(self._item(kind, text))

    def _item(self, kind: str, text: str) -> _Node:
        self._at += 1
        if kind == "name":
            return _Reference(text)
        if kind == "literal":
            return _Text("".join(map(escape_regex, self._characters(text[1:-1]))))
        if kind == "set":
            return _Text(self._set(text[1:-1]))
        if text == ".":
            return _Text("(?s:.)")
        assert text == "("
        inner = self._choice()
        if self._next() != ("mark", ")"):
            raise UsageError("the grammar has a bracket that is not closed")
        self._at += 1
        return inner

    def _set(self, text: str) -> str:
        """A regular expression of what stands between square brackets."""
        negation = "^" if text.startswith("^") else ""
        # a dash between two characters makes a range, an escaped one never does
        items = [m.group() for m in _ESCAPE.finditer(text[len(negation) :])]
        characters = self._characters(text[len(negation) :])
        pieces = []
        for i, (item, character) in enumerate(zip(items, characters, strict=True)):
            is_range = item == "-" and 0 < i < len(items) - 1
            pieces.append("-" if is_range else escape_regex(character))
        if not pieces:
            raise UsageError(f"the grammar has a set without characters, [{text}]")
        return f"[{negation}{''.join(pieces)}]"

    def _characters(self, text: str) -> list[str]:
        characters, at = [], 0
        while at < len(text):
            found = _ESCAPE.match(text, at)
            if found is None:
                raise UsageError(f"the grammar has an escape that means nothing, {text[at : at + 2]}")
            code = found[1] or found[2] or found[3]
            if code and (int(code, 16) > 0x10FFFF or 0xD800 <= int(code, 16) < 0xE000):
                raise UsageError(f"the grammar has {found.group()}, which is no character")
            characters.append(chr(int(code, 16)) if code else _NAMED.get(found[4], found[4]) if found[4] else found[5])
            at = found.end()
        return characters

    def _next(self) -> tuple[str, str]:
        return self._lexemes[self._at][:2] if self._at < len(self._lexemes) else ("", "")

    def _take(self, kind: str) -> str:
        found, text, at = self._lexemes[self._at]
        if found != kind:
            raise self._error(at)
        self._at += 1
        return text

    def _error(self, at: int) -> UsageError:
        line = self._text.count("\n", 0, at) + 1
        return UsageError(f"the grammar cannot be read from {self._text[at : at + 20]!r} on, in line {line}")


class _Writer:
    def __init__(self, rules: dict[str, _Node]) -> None:
        self._rules = rules
        self._names = {name: f"{i}_{re.sub('[^A-Za-z0-9]', '_', name)}" for i, name in enumerate(rules)}
        self._regular = _regular_rules(rules)
        self._lines: list[str] = []

    def write(self) -> str:
        for name, rule in self._rules.items():
            if name in self._regular:
                self._lines.append(f"{self._terminal(name)}: {self._plain(rule)}")
        for name, rule in self._rules.items():
            if name not in self._regular:
                self._lines.append(f"{self._rule(name)}: {self._mixed(rule)}")
        return "\n".join([f"start: {self._mixed(_Reference('root'))}", *self._lines, ""])

    def _terminal(self, name: str) -> str:
        return f"R{self._names[name].upper()}"

    def _rule(self, name: str) -> str:
        return f"r{self._names[name].lower()}"

    def _mixed(self, node: _Node) -> str:
        """The node in a rule, its regular parts as lexemes."""
        if self._is_regular(node):
            return self._lexeme(node)
        match node:
            case _Reference(name):
                return self._rule(name)
            case _Series(parts):
                return " ".join(self._runs(parts))
            case _Choice(parts):
                return f"({' | '.join(self._mixed(part) for part in parts)})"
            case _Repeat(part, suffix):
                return f"({self._mixed(part)}){suffix}"
        raise AssertionError(node)

    def _runs(self, parts: tuple[_Node, ...]) -> Iterator[str]:
        run: list[_Node] = []
        for part in parts:
            if self._is_regular(part):
                run.append(part)
                continue
            if run:
                yield self._lexeme(_Series(tuple(run)))
                run = []
            yield self._mixed(part)
        if run:
            yield self._lexeme(_Series(tuple(run)))

    def _lexeme(self, node: _Node) -> str:
        if isinstance(node, _Reference):
            return self._terminal(node.name)
        name = f"L{len(self._lines)}"
        self._lines.append(f"{name}: {self._plain(node)}")
        return name

    def _plain(self, node: _Node) -> str:
        """The node as a lexeme is defined."""
        match node:
            case _Text(regex):
                return f"/{regex}/" if regex else '""'
            case _Reference(name):
                return self._terminal(name)
            case _Series(parts):
                return " ".join(self._plain(part) for part in parts) or '""'
            case _Choice(parts):
                return f"({' | '.join(self._plain(part) for part in parts)})"
            case _Repeat(part, suffix):
                return f"({self._plain(part)}){suffix}"
        raise AssertionError(node)

    def _is_regular(self, node: _Node) -> bool:
        return all(name in self._regular for name in _references(node))


def _regular_rules(rules: dict[str, _Node]) -> frozenset[str]:
    """The rules that never lead back to themselves, nor to one that does."""
    regular: set[str] = set()
    while True:
        new = {n for n, rule in rules.items() if n not in regular and regular.issuperset(_references(rule))}
        if not new:
            return frozenset(regular)
        regular |= new


def _references(node: _Node) -> Iterator[str]:
    match node:
        case _Reference(name):
            yield name
        case _Series(parts) | _Choice(parts):
            for part in parts:
                yield from _references(part)
        case _Repeat(part, _):
            yield from _references(part)
