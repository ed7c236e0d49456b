"""The options that `run` and `chat` share, written once."""

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from llmrun.runner.sampler import SamplingParams


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
        help="Keys and values as f16 (default), q8_0 (half the memory), q8_q4 (0.4 of it) or q4_0 (a quarter, coarse).",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for other programs to read.")]


def _sampling(flag: str, metavar: str, text: str) -> Any:
    return typer.Option(flag, metavar=metavar, help=text, show_default=False)


@dataclass(frozen=True)
class GenerateOptions:
    """How to answer. None leaves a value to the default of `SamplingParams` or `Engine.load`."""

    system: Annotated[str | None, typer.Option("--system", metavar="TEXT", help="Instructions before the chat.")] = None
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
    seed: Annotated[int | None, _sampling("--seed", "N", "Same seed, same text.")] = None
    max_tokens: Annotated[int | None, _sampling("--max-tokens", "N", "End an answer after N tokens.")] = None
    stop: Annotated[list[str] | None, _sampling("--stop", "TEXT", "End an answer before TEXT; may be given again.")] = (
        None
    )
    context: Context = None
    threads: Threads = None
    kv_type: KVTypeName = None
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text as it is, without the chat template.")] = False
    stats: Annotated[bool, typer.Option("--stats", help="Print speed and token counts on standard error.")] = False

    def sampling_params(self) -> "SamplingParams":
        """The given values over the defaults; raises UsageError for one that makes no sense."""
        from llmrun.runner.sampler import SamplingParams

        known = {field.name for field in dataclasses.fields(SamplingParams)}
        given = {name: getattr(self, name) for name in known if getattr(self, name, None) is not None}
        return SamplingParams(**given)


def with_generate_options(command: Callable[..., None]) -> Callable[..., None]:
    """Make every field of GenerateOptions an option of `command`, which takes them as one argument `options`."""
    fields = dataclasses.fields(GenerateOptions)

    def wrapped(**arguments: Any) -> None:
        options = GenerateOptions(**{field.name: arguments.pop(field.name) for field in fields})
        command(**arguments, options=options)

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
