"""`llmrun run`: one prompt, one answer."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from llmrun.cli.options import GenerateOptions, Model, with_generate_options
from llmrun.cli.standard_output import write
from llmrun.quant_formats.errors import InputError, UsageError

if TYPE_CHECKING:
    from llmrun.runner.engine import Engine
    from llmrun.runner.generation import Generation
    from llmrun.runner.sampler import SamplingParams

Prompt = Annotated[
    str | None,
    typer.Argument(metavar="PROMPT", help="What to answer. Text on standard input goes before it."),
]


@with_generate_options
def run(model: Model, prompt: Prompt = None, *, options: GenerateOptions) -> None:
    """Answer one prompt and leave. Standard output carries the answer and nothing else.

    Text on standard input goes before the prompt: git diff | llmrun run smollm2 "write a commit message"
    """
    text = join_prompt(read_stdin(), prompt)
    params = options.sampling_params()
    if options.raw and options.system is not None:
        raise UsageError("--raw takes the text as it is, so --system has no place; leave one of them out")
    from llmrun.cli.loading import load_engine
    from llmrun.cli.stats_line import print_ending

    with load_engine(model, options.context, options.threads, options.kv_type) as engine:
        generation = start(engine, text, params, options)
        print_answer(generation)
        print_ending(generation, engine, options.stats)


def start(engine: "Engine", text: str, params: "SamplingParams", options: GenerateOptions) -> "Generation":
    """Begin to answer: through the chat template, or as a completion with --raw or if the model has none."""
    if options.raw or engine.chat_template is None:
        if options.system is not None:
            raise UsageError("the model has no chat template, so --system has no place; put it into the prompt")
        return engine.generate(text, params)
    return engine.chat(system=options.system, params=params).send(text)


def print_answer(generation: "Generation") -> None:
    """Stream the answer to standard output; it ends with a line break, its own or one added."""
    ends_line = True
    for piece in generation:
        if piece.text:
            write(piece.text)
            ends_line = piece.text.endswith("\n")
    if not ends_line:
        write("\n")


def read_stdin() -> str | None:
    """All of standard input, or None if it is a terminal or closed. Raises InputError if it is not UTF-8."""
    if sys.stdin is None or sys.stdin.isatty():
        return None
    data = sys.stdin.buffer.read()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"standard input is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}; "
            "convert it, for example with iconv -t UTF-8"
        ) from error
    return text.removeprefix("\ufeff")  # some editors and shells put a byte order mark first


def join_prompt(stdin: str | None, prompt: str | None) -> str:
    """Standard input, a line break, the prompt; or the one there is. Raises UsageError if there is neither."""
    parts = [part for part in (stdin.rstrip("\r\n") if stdin else None, prompt) if part]
    if not parts:
        raise UsageError('there is no prompt; write one after the model, as in llmrun run MODEL "Hello", or pipe it in')
    return "\n".join(parts)
