"""What can be set for all runs, in config.toml and in the environment: one row of a table for each setting."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from llmrun.quant_formats.errors import UsageError

Value = str | int | float | bool | list[str]
Kind = Literal["number", "whole number", "text", "list of texts", "switch"]

WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
THEMES = ("dark", "light", "none")
LOG_LEVELS = ("debug", "info", "warning", "error")


def _kv_types() -> Sequence[str]:
    from llmrun.cpu_kernels.kv_types import KV_TYPES

    return tuple(KV_TYPES)


def _overflows() -> Sequence[str]:
    from llmrun.runner.overflow import OVERFLOWS

    return OVERFLOWS


@dataclass(frozen=True)
class Setting:
    """One thing that can be set: its name is the key in config.toml, LLMRUN_NAME the variable of the environment."""

    name: str
    kind: Kind
    text: str  # what it is, for `llmrun config show` and the docs
    default: str  # in words, for people
    is_sampling: bool = False  # a field of SamplingParams, which knows what values make sense
    choices: Callable[[], Sequence[str]] | None = None
    least: int | None = None
    most: int | None = None
    per_model: bool = True  # may also stand in [models."NAME"]

    @property
    def variable(self) -> str:
        """The variable of the environment."""
        return f"LLMRUN_{self.name.upper()}"

    def parse(self, text: str) -> Value:
        """The value that a text stands for; raises UsageError for one that makes no sense."""
        return self.check(self._read(text.strip() if self.kind not in ("text", "list of texts") else text))

    def check(self, value: object) -> Value:
        """The value as the program wants it; raises UsageError for a wrong type or one that makes no sense."""
        value = self._typed(value)
        if self.choices is not None and value not in self.choices():
            raise UsageError(f"{self.name} must be one of {', '.join(self.choices())}, not {value!r}")
        if isinstance(value, int) and not (self.least or value) <= value <= (self.most or value):
            limits = f"{self.least} or more" if self.most is None else f"between {self.least} and {self.most}"
            raise UsageError(f"{self.name} must be {limits}, not {value}")
        if self.is_sampling:
            from llmrun.runner.sampler import SamplingParams

            SamplingParams(**{self.name: value})  # type: ignore[arg-type]
        return value

    def _read(self, text: str) -> object:
        """The text as a value of this kind, or as it is where it is none."""
        try:
            match self.kind:
                case "number":
                    return float(text)
                case "whole number":
                    return int(text)
                case "switch":
                    return WORDS.get(text.lower(), text)
                case "list of texts" if text.lstrip().startswith("["):
                    import tomllib

                    return tomllib.loads(f"list = {text}")["list"]
        except ValueError:  # which a TOMLDecodeError is, too
            pass
        return text

    def _typed(self, value: object) -> Value:
        match self.kind:
            case "number" if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                return float(value)
            case "whole number" if isinstance(value, int) and not isinstance(value, bool):
                return value
            case "switch" if isinstance(value, bool):
                return value
            case "text" if isinstance(value, str):
                return value
            case "list of texts" if isinstance(value, str):
                return [value]
            case "list of texts" if isinstance(value, list) and all(isinstance(item, str) for item in value):
                return value
        wanted = {"switch": "true or false", "text": "a text in quotes", "list of texts": 'texts, as in ["one", "two"]'}
        raise UsageError(f"{self.name} must be {wanted.get(self.kind, f'a {self.kind}')}, not {value!r}")


def _sampling(name: str, kind: Kind, text: str, default: str) -> Setting:
    return Setting(name, kind, text, default, is_sampling=True)


def _server(
    name: str,
    kind: Kind,
    text: str,
    default: str,
    least: int | None = None,
    most: int | None = None,
    choices: Callable[[], Sequence[str]] | None = None,
) -> Setting:
    return Setting(name, kind, text, default, least=least, most=most, choices=choices, per_model=False)


SETTINGS = {
    setting.name: setting
    for setting in (
        Setting("model", "text", "the model of a chat that names none", "none", per_model=False),
        Setting("system", "text", "instructions before the chat", "none"),
        _sampling("temperature", "number", "randomness; 0 always takes the likeliest", "0.7"),
        _sampling("top_k", "whole number", "choose among the N likeliest tokens; 0 is off", "40"),
        _sampling("top_p", "number", "choose among the likeliest that reach P; 1 is off", "0.95"),
        _sampling("min_p", "number", "drop those below P x the likeliest; 0 is off", "0.05"),
        _sampling("repeat_penalty", "number", "divide repeats' logits; 1 is off", "1.0"),
        _sampling("presence_penalty", "number", "lower the logit of tokens that occurred; 0 is off", "0.0"),
        _sampling("frequency_penalty", "number", "lower it once for each occurrence; 0 is off", "0.0"),
        _sampling("penalty_last_n", "whole number", "tokens that the penalties look back; -1 is all", "64"),
        _sampling("seed", "whole number", "same seed, same text", "drawn anew each time"),
        _sampling("max_tokens", "whole number", "end an answer after N tokens", "as many as the context holds"),
        _sampling("stop", "list of texts", "end an answer before one of these texts", "none"),
        Setting("context", "whole number", "tokens of context", "what the model was trained on, at most 4096", least=2),
        Setting("threads", "whole number", "threads", "one for each core", least=1, most=1024),
        Setting("kv_type", "text", "how keys and values are stored", "f16", choices=_kv_types),
        Setting(
            "overflow", "text", "what to do when the context is full", "error for run, shift for chat",
            choices=_overflows,
        ),
        Setting(
            "theme", "text", "colours of a chat: dark, light or none", "what suits the terminal", per_model=False,
            choices=lambda: THEMES,
        ),
        Setting("stats", "switch", "print speed and token counts after an answer", "false"),
        _server("host", "text", "address of the server, HOST or HOST:PORT", "127.0.0.1"),
        _server("port", "whole number", "port of the server", "11434", least=0, most=65535),
        _server("parallel", "whole number", "full contexts that a server has room for", "up to 4", least=1, most=1024),
        _server("keep_alive", "text", "how long an idle model of a server stays loaded, as 5m", "5m"),
        _server("max_queue", "whole number", "requests that may wait in a server", "512", least=1),
        _server("api_key_file", "text", "file with the keys that a server accepts, one a line", "none"),
        _server("allow_origin", "list of texts", "web pages that may use the server, as https://chat.example", "none"),
        _server("allow_host", "list of texts", "names by which the server may be called", "none"),
        _server("log_level", "text", "how much a server logs", "info", choices=lambda: LOG_LEVELS),
    )
}  # fmt: skip


def setting_named(name: str) -> Setting:
    """The row of a name; raises UsageError, with what comes near, if there is none."""
    if name not in SETTINGS:
        raise UsageError(f"{name!r} is not a setting; {hint(name, list(SETTINGS))}")
    return SETTINGS[name]


def hint(name: str, names: Sequence[str]) -> str:
    """What a misspelt name may have meant, or all there are."""
    near = nearest(name, names)
    return f"did you mean {near}?" if near else f"there are {', '.join(names)}"


def nearest(name: str, names: Sequence[str]) -> str | None:
    """The name that comes nearest, if one comes near."""
    import difflib

    return next(iter(difflib.get_close_matches(name, names, n=1, cutoff=0.5)), None)
