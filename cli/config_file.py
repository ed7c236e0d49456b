"""config.toml: where a person keeps settings for all runs and for single models."""

import os
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from llmrun.cli.setting import SETTINGS, Value, hint, setting_named
from llmrun.quant_formats.errors import UsageError

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

    def __init__(self, path: Path, text: str) -> None:
        """Raise UsageError, naming the line, for a text that is not TOML, or keys and values that make no sense."""
        self.path = path
        self.text = text
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
        return cls(path, text.replace("\r\n", "\n"))

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


def _is_same(one: str, other: str) -> bool:
    """Whether two ways to write a model mean the same: the same name, or paths of the same file."""
    return one == other or Path(one).expanduser().resolve() == Path(other).expanduser().resolve()


def _keys(table: dict[str, Any], above: Key = ()) -> Iterator[Key]:
    for name, value in table.items():
        yield (*above, name)
        if isinstance(value, dict):
            yield from _keys(value, (*above, name))
