"""The options that `run` and `chat` share, written once."""

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmrun.cli.setting import SETTINGS, Value, hint, setting_named
from llmrun.quant_formats.errors import UsageError

if TYPE_CHECKING:
    from llmrun.runner.grammar import Grammar
    from llmrun.runner.sampler import SamplingParams
    from llmrun.runner.session_info import SessionInfo

NO_FLAG = {"no_flag": True}  # marks a field that is not an option of the command line
SESSION_SETTINGS = ("context", "kv_type", "overflow", *(s.name for s in SETTINGS.values() if s.is_sampling))


def complete_model(incomplete: str) -> list[str]:
    """Names for the shell to offer."""
    from llmrun.runner.registry import entries

    return [name for name in entries() if name.startswith(incomplete)]


Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A GGUF file, or a name that `llmrun list` shows.",
        show_default=False,
        autocompletion=complete_model,
    ),
]
Context = Annotated[
    int | None,
    typer.Option("--ctx", metavar="N", help="Tokens of context: prompt, conversation and answers together."),
]
Threads = Annotated[
    int | None, typer.Option("--threads", metavar="N", min=1, max=1024, help="Threads; default: one for each core.")
]
KVTypeName = Annotated[
    str | None,
    typer.Option(
        "--kv-type",
        metavar="TYPE",
        help="Keys and values as f16 (default), q8_0 (half the memory) or q4_0 (little more than a quarter).",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for other programs to read.")]


OverflowName = Annotated[
    str | None,
    typer.Option(
        "--overflow",
        metavar="WHAT",
        help="When the context is full: error ends there, shift drops the older half of the turns, window the fewest.",
    ),
]
Continue = Annotated[
    bool, typer.Option("-c", "--continue", help="Go on with the conversation that was used last.", show_default=False)
]
SessionName = Annotated[
    str | None,
    typer.Option("--session", metavar="NAME", help="Go on with the conversation of that name, or begin it."),
]


def _sampling(flag: str, metavar: str, text: str) -> Any:
    return typer.Option(flag, metavar=metavar, help=text, show_default=False)


@dataclass(frozen=True)
class GenerateOptions:
    """How to answer: the flags, and for what no flag was given the user's settings.

    None leaves a value to the default of `SamplingParams`, `Engine.load` or the command.
    """

    system: Annotated[
        str | None, typer.Option("-s", "--system", metavar="TEXT", help="Instructions before the chat.")
    ] = None
    temperature: Annotated[float | None, _sampling("--temp", "X", "Randomness; 0 always takes the likeliest.")] = None
    top_k: Annotated[int | None, _sampling("--top-k", "N", "Choose among the N likeliest tokens; 0 is off.")] = None
    top_p: Annotated[float | None, _sampling("--top-p", "P", "Choose among the likeliest that reach P; 1 is off.")] = (
        None
    )
    min_p: Annotated[float | None, _sampling("--min-p", "P", "Drop those below P x the likeliest; 0 is off.")] = None
    repeat_penalty: Annotated[float | None, _sampling("--repeat-penalty", "X", "Divide repeats' logits; 1 is off.")] = (
        None
    )
    presence_penalty: Annotated[
        float | None, _sampling("--presence-penalty", "X", "Lower the logit of tokens that occurred; 0 is off.")
    ] = None
    frequency_penalty: Annotated[
        float | None, _sampling("--frequency-penalty", "X", "Lower it once for each occurrence; 0 is off.")
    ] = None
    penalty_last_n: int | None = field(default=None, metadata=NO_FLAG)  # -o and settings have it
    seed: Annotated[int | None, _sampling("--seed", "N", "Same seed, same text.")] = None
    max_tokens: Annotated[int | None, _sampling("--max-tokens", "N", "End an answer after N tokens.")] = None
    stop: Annotated[list[str] | None, _sampling("--stop", "TEXT", "End an answer before TEXT; may be given again.")] = (
        None
    )
    pairs: Annotated[
        list[str] | None,
        _sampling("-o", "KEY=VALUE", "Set a sampling parameter by its name in config.toml; may be given again."),
    ] = None
    answer_format: Annotated[
        str | None, _sampling("--format", "FORMAT", "Answer with JSON: json for any object, or a schema or its file.")
    ] = None
    regex: Annotated[str | None, _sampling("--regex", "PATTERN", "Answer with what PATTERN matches.")] = None
    grammar_file: Annotated[
        str | None, _sampling("--grammar", "FILE", "Answer with a text of the grammar in FILE (GBNF or Lark).")
    ] = None
    context: Context = None
    threads: Threads = None
    kv_type: KVTypeName = None
    overflow: OverflowName = None
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text as it is, without the chat template.")] = False
    stats: Annotated[
        bool,
        typer.Option("--stats/--no-stats", help="Print speed and token counts on standard error.", show_default=False),
    ] = None  # type: ignore[assignment]  # so that typer says whether one of the two was given
    given: frozenset[str] = field(default=frozenset(), metadata=NO_FLAG)  # the fields that flags set

    def for_model(self, model: str | None) -> "GenerateOptions":
        """The same flags over the settings that count for a model, which need not be the one of the command line.

        Raises UsageError for a flag, a variable or a line of config.toml that makes no sense.
        """
        from llmrun.cli.settings import Settings

        settings = Settings.load(model)
        flags = {name: getattr(self, name) for name in self.given}
        unset = {f.name: settings.get(f.name) for f in dataclasses.fields(self) if f.name in SETTINGS}
        unset["stats"] = settings.get("stats") is True
        return GenerateOptions(**(unset | {"given": self.given} | flags))

    def for_session(self, info: "SessionInfo") -> "GenerateOptions":
        """These, with what a stored conversation was begun with for everything that no flag sets."""
        stored = {name: value for name, value in info.settings.items() if name in SESSION_SETTINGS}
        kept = {name: value for name, value in (stored | {"system": info.system}).items() if name not in self.given}
        return dataclasses.replace(self, **kept)

    def session_settings(self) -> dict[str, Any]:
        """What a conversation that is begun with these keeps, beside its instructions: what flags set."""
        return {name: getattr(self, name) for name in SESSION_SETTINGS if name in self.given}

    def system_for(self, has_template: bool) -> str | None:
        """The instructions, if the model and --raw leave a place for them.

        Raises UsageError if a flag gave them and there is no place; what is only in the settings is left out then.
        """
        if has_template and not self.raw:
            return self.system
        if "system" not in self.given:
            return None
        if self.raw:
            raise UsageError("--raw takes the text as it is, so --system has no place; leave one of them out")
        raise UsageError("the model has no chat template, so --system has no place; put it into the text")

    def grammar(self) -> "Grammar | None":
        """What an answer has to look like; raises UsageError, as `grammar_of` does."""
        from llmrun.cli.answer_format import grammar_of

        return grammar_of(self.answer_format, self.regex, self.grammar_file)

    def sampling_params(self) -> "SamplingParams":
        """The given values over the defaults; raises UsageError for one that makes no sense."""
        from llmrun.runner.sampler import SamplingParams

        known = {field.name for field in dataclasses.fields(SamplingParams)}
        given = {name: getattr(self, name) for name in known if getattr(self, name, None) is not None}
        return SamplingParams(**given)


def options_from_flags(flags: dict[str, Any], model: str | None) -> GenerateOptions:
    """The options of a command line: what -o says is a flag like the others. Raises UsageError, as `for_model` does."""
    is_absent = {"raw": False, "stop": []}
    given = {
        name: value
        for name, value in flags.items()
        if value is not None and value != is_absent.get(name) and name != "pairs"
    }
    for name, value in _pairs(flags.get("pairs") or []).items():
        if name in given:
            raise UsageError(f"{name} is given twice, by -o and by its own option; leave one of them out")
        given[name] = value
    if (overflow := given.get("overflow")) is not None:
        setting_named("overflow").check(overflow)
    return GenerateOptions(**given, given=frozenset(given)).for_model(model)


def _pairs(pairs: list[str]) -> dict[str, Value]:
    """The values of KEY=VALUE; raises UsageError."""
    names = [setting.name for setting in SETTINGS.values() if setting.is_sampling]
    values: dict[str, Value] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            raise UsageError(f"-o {pair} has no value; write it as -o {name}=VALUE")
        if name not in names:
            raise UsageError(f"-o {pair}: {name!r} is not a sampling parameter; {hint(name, names)}")
        if name in values:
            raise UsageError(f"-o {name}=... is given twice; leave one of them out")
        values[name] = SETTINGS[name].parse(text)
    return values


def with_generate_options(command: Callable[..., None]) -> Callable[..., None]:
    """Make the fields of GenerateOptions options of `command`, which takes them as one argument `options`.

    What no flag sets comes from the settings, those for MODEL if the command names one.
    """
    fields = [field for field in dataclasses.fields(GenerateOptions) if "no_flag" not in field.metadata]

    def wrapped(**arguments: Any) -> None:
        from llmrun.cli.say import say
        from llmrun.cli.settings import misspelt_variables

        for line in misspelt_variables():
            say(line)
        flags = {field.name: arguments.pop(field.name) for field in fields}
        command(**arguments, options=options_from_flags(flags, arguments.get("model")))

    own = [p for p in inspect.signature(command).parameters.values() if p.name != "options"]
    shared = [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
        for field in fields
    ]
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + shared
    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in parameters}
    wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
    return wrapped
