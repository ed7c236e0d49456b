"""config.toml: where a person keeps settings for all runs and for single models."""

import copy
import functools
import json
import os
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from llmrun.cli.setting import SETTINGS, Value, hint, setting_named
from llmrun.quant_formats.errors import UsageError
from llmrun.quant_formats.whole_file import write_whole

Key = tuple[str, ...]
"""The names that lead to a value: ("top_k",) or ("models", "smollm2", "top_k")."""


def config_path() -> Path:
    """config.toml in $LLMRUN_HOME, or in the user's configuration folder of this system."""
    if home := os.environ.get("LLMRUN_HOME"):
        return Path(home).expanduser() / "config.toml"
    import platformdirs

    return Path(platformdirs.user_config_dir("llmrun", appauthor=False)) / "config.toml"


@dataclass(frozen=True)
class Entry:
    """One checked value of the file, for all models or for one."""

    name: str
    value: Value
    model: str | None
    key: Key


class ConfigFile:
    """The file's text and what it says. A file that is not there says nothing."""

    def __init__(self, path: Path, text: str, line_break: str = "\n") -> None:
        """Raise UsageError, naming the line, for a text that is not TOML, or keys and values that make no sense."""
        self.path = path
        self.text = text  # with \n for every line break
        self._line_break = line_break
        try:
            self._data: dict[str, Any] = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"{path} is not TOML: {error}") from error
        self.entries = list(self._checked())

    @classmethod
    def read(cls, path: Path | None = None) -> Self:
        """Read the file, by default the user's."""
        path = path or config_path()
        try:
            text = path.read_bytes().decode("utf-8-sig")  # some editors put a byte order mark first
        except FileNotFoundError:
            text = ""
        except UnicodeDecodeError as error:
            raise UsageError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
        return cls(path, text.replace("\r\n", "\n"), "\r\n" if "\r\n" in text else "\n")

    def for_model(self, model: str | None) -> Iterator[Entry]:
        """The entries that count for a model, given by name or path; those of its own table come last."""
        yield from (entry for entry in self.entries if entry.model is None)
        if model is not None:
            yield from (entry for entry in self.entries if entry.model is not None and _is_same(entry.model, model))

    def place(self, key: Key) -> str:
        """Where a value is, for people: the path and the line."""
        return f"{self.path}, line {self.lines[key][0] + 1}"

    @cached_property
    def lines(self) -> dict[Key, tuple[int, int]]:
        """The first line of every key and the one after its last, counted from 0.

        The standard library's reader keeps no lines. But a file cut off after a line is TOML again, unless the line
        is in the middle of a value: a key begins where the last cut without it ends.
        """
        found: dict[Key, tuple[int, int]] = {}
        lines = self.text.split("\n")
        begin = 0
        for end in range(1, len(lines) + 1):
            try:
                data = tomllib.loads("\n".join(lines[:end]) + "\n")
            except tomllib.TOMLDecodeError:
                continue
            for key in _keys(data):
                found.setdefault(key, (begin, end))
            begin = end
        return found

    def with_value(self, name: str, value: Value, model: str | None) -> Self:
        """The file with one value changed or added, all else as it is; raises UsageError where that cannot be done."""
        key = _key(name, model)
        lines = self.text.split("\n")
        if key in self.lines:
            begin, end = self.lines[key]
            left, _, right = lines[begin].partition("=")
            comment = _comment(right) if end == begin + 1 else ""
            lines[begin:end] = [f"{left.rstrip()} = {toml_of(value)}{comment}"]
        else:
            at, before = self._place_for(model, lines)
            lines[at:at] = [*before, f"{name} = {toml_of(value)}"]
        return self._checked_edit("\n".join(lines), key, value)

    def without(self, name: str, model: str | None) -> Self:
        """The file without one value; raises UsageError if it has none, or where that cannot be done."""
        key = _key(name, model)
        if key not in self.lines:
            raise UsageError(f"{name} is not set in {self.path}" + (f" for {model}" if model else ""))
        begin, end = self.lines[key]
        lines = self.text.split("\n")
        return self._checked_edit("\n".join(lines[:begin] + lines[end:]), key, None)

    def write(self) -> None:
        """Put the text on the disk, whole or not at all; raises UsageError where that cannot be done."""
        try:
            path = self.path.resolve()  # which may be a link into somebody's collection of such files
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, self.text.replace("\n", self._line_break).encode())
        except OSError as error:
            raise UsageError(f"{self.path} cannot be written: {error.strerror or error}") from error

    def _place_for(self, model: str | None, lines: list[str]) -> tuple[int, list[str]]:
        """Before which line a new value belongs, and what has to come before it."""
        last = len(lines) - 1 if not lines[-1] else len(lines)
        if model is not None:
            own = [end for key, (_, end) in self.lines.items() if key[:2] == ("models", model)]
            gap = [""] if any(lines) else []
            return (max(own), []) if own else (last, [*gap, f"[models.{toml_of(model)}]"])
        plain = [end for key, (_, end) in self.lines.items() if key[0] != "models"]
        if plain:
            return max(plain), []
        at = min((begin for begin, _ in self.lines.values()), default=last)
        while at < last and at > 0 and lines[at - 1].lstrip().startswith("#"):  # which speaks of the table below
            at -= 1
        return at, []

    def _checked_edit(self, text: str, key: Key, value: Value | None) -> Self:
        """The file with that text, if exactly the value of `key` is another now."""
        wanted = copy.deepcopy(self._data)
        *tables, name = key
        table = functools.reduce(lambda table, name: table.setdefault(name, {}), tables, wanted)
        if value is None:
            del table[name]
        else:
            table[name] = value
        text = text if text.endswith("\n") or not text else text + "\n"
        try:
            text.encode()
            is_right = tomllib.loads(text) == wanted
        except ValueError:
            is_right = False
        if not is_right:
            raise UsageError(f"{self.path} is written in a way that only you can change; set {name} in it by hand")
        return type(self)(self.path, text, self._line_break)

    def _checked(self) -> Iterator[Entry]:
        for name, value in self._data.items():
            if name != "models":
                yield self._entry((name,), value)
                continue
            if not isinstance(value, dict):
                raise UsageError(f'{self.place(("models",))}: models is for tables, as in [models."smollm2"]')
            for model, table in value.items():
                key = ("models", model)
                if not isinstance(table, dict):
                    raise UsageError(f'{self.place(key)}: write [models."{model}"] and its settings below')
                yield from (self._entry((*key, name), value) for name, value in table.items())

    def _entry(self, key: Key, value: object) -> Entry:
        name, model = key[-1], key[1] if len(key) > 1 else None
        try:
            if name not in SETTINGS and model is None:
                raise UsageError(f"{name!r} is not a setting; {hint(name, [*SETTINGS, 'models'])}")
            setting = setting_named(name)
            if model is not None and not setting.per_model:
                raise UsageError(f"{name} is for all models; put it before the first table")
            return Entry(name, setting.check(value), model, key)
        except UsageError as error:
            raise UsageError(f"{self.place(key)}: {error}") from error


def toml_of(value: object) -> str:
    """A value as TOML writes it."""
    if isinstance(value, list):
        return f"[{', '.join(map(toml_of, value))}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower()


def _key(name: str, model: str | None) -> Key:
    return (name,) if model is None else ("models", model, name)


def _comment(right: str) -> str:
    """The comment behind a value, with the space before it; right is what follows the equals sign."""
    for at, character in enumerate(right):
        if character == "#":
            try:
                tomllib.loads(f"value = {right[:at]}")
            except tomllib.TOMLDecodeError:  # a # within a text
                continue
            return right[len(right[:at].rstrip()) :]
    return ""


def _is_same(one: str, other: str) -> bool:
    """Whether two ways to write a model mean the same: the same name, or paths of the same file."""
    return one == other or Path(one).expanduser().resolve() == Path(other).expanduser().resolve()


def _keys(table: dict[str, Any], above: Key = ()) -> Iterator[Key]:
    for name, value in table.items():
        yield (*above, name)
        if isinstance(value, dict):
            yield from _keys(value, (*above, name))
