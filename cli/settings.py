"""What holds for a run: defaults, config.toml, the environment; each wins over the one before.

Flags win over all of them; `GenerateOptions` sees to that.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from llmrun.cli.config_file import ConfigFile, Key
from llmrun.cli.setting import SETTINGS, Setting, Value, nearest
from llmrun.quant_formats.errors import UsageError

# variables that are read elsewhere, and those of the tests
OTHER_VARIABLES = ("LLMRUN_HOME", "LLMRUN_CACHE", "LLMRUN_API_KEY")
TEST_PREFIX = "LLMRUN_TEST_"


@dataclass(frozen=True)
class Found:
    """A value that somebody set, and where."""

    value: Value
    variable: str | None = None
    key: Key = ()  # in config.toml


class Settings:
    """The value of every setting, for one model or before a model is named."""

    def __init__(self, file: ConfigFile, found: Mapping[str, Found]) -> None:
        self.file = file
        self._found = found

    @classmethod
    def load(cls, model: str | None = None) -> Self:
        """Read config.toml and the environment; `model`, as the user wrote it, brings in its table of the file.

        Raises UsageError for a key that does not exist or a value that makes no sense, anywhere in the file, and says
        in which line or variable.
        """
        file = ConfigFile.read()
        found = {entry.name: Found(entry.value, key=entry.key) for entry in file.for_model(model)}
        for setting in SETTINGS.values():
            text = os.environ.get(setting.variable)
            if text:  # a variable set to nothing is one that is not set
                found[setting.name] = Found(_parse(setting, text), setting.variable)
        return cls(file, found)

    def get(self, name: str) -> Value | None:
        """What is set; None leaves it to the default of whoever uses it."""
        assert name in SETTINGS
        return self._found[name].value if name in self._found else None

    def origin(self, name: str) -> str:
        """Where the value comes from, for people: "default", a variable, or a file and its line."""
        found = self._found.get(name)
        if found is None:
            return "default"
        return found.variable or self.file.place(found.key)


def misspelt_variables() -> list[str]:
    """One line for each LLMRUN_ variable that nothing reads."""
    known = [*(setting.variable for setting in SETTINGS.values()), *OTHER_VARIABLES]
    lines = []
    for name in sorted(os.environ):
        if name.startswith("LLMRUN_") and name not in known and not name.startswith(TEST_PREFIX):
            near = nearest(name, known)
            lines.append(f"{name} is not a setting and does nothing" + (f"; did you mean {near}?" if near else ""))
    return lines


def _parse(setting: Setting, text: str) -> Value:
    try:
        return setting.parse(text)
    except UsageError as error:
        raise UsageError(f"{setting.variable}: {error}") from error
