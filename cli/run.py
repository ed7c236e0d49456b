"""`llmrun run`: one prompt, one answer."""

import contextlib
import json
import signal
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from llmrun.cli.interrupt import Interrupt
from llmrun.cli.options import Continue, GenerateOptions, Model, SessionName, with_generate_options
from llmrun.cli.pick_session import check_choice, pick_session
from llmrun.cli.say import say
from llmrun.cli.standard_output import ReaderLeft, write
from llmrun.quant_formats.errors import InputError, LlmrunError, UsageError

if TYPE_CHECKING:
    from llmrun.runner.chat import Chat
    from llmrun.runner.engine import Engine
    from llmrun.runner.generation import Generation
    from llmrun.runner.session_info import SessionInfo
    from llmrun.runner.session_store import SessionStore

Prompt = Annotated[
    str | None,
    typer.Argument(metavar="PROMPT", help="What to answer. Text on standard input goes before it."),
]
Extract = Annotated[bool, typer.Option("--extract", help="Print the last code block of the answer, nothing else.")]
AnswerJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object: answer, finish_reason, tokens, times.")
]


@with_generate_options
def run(
    model: Model,
    prompt: Prompt = None,
    continue_last: Continue = False,
    session: SessionName = None,
    extract: Extract = False,
    as_json: AnswerJson = False,
    *,
    options: GenerateOptions,
) -> None:
    """Answer one prompt and leave. Standard output carries the answer and nothing else.

    Text on standard input goes before the prompt: git diff | llmrun run smollm2 "write a commit message"
    """
    check_choice(continue_last, session)
    if extract and as_json:
        raise UsageError("--extract prints code and --json an object; leave one of them out")
    options.system_for(has_template=True)  # what makes no sense is said before the model is loaded
    options.sampling_params()
    text = join_prompt(read_stdin(), prompt)
    store = info = None
    if continue_last or session is not None:
        from llmrun.runner.session_store import SessionStore

        store = SessionStore()
        info = pick_session(store, model, options, session)
        options = options.for_session(info)
    started = time.perf_counter()
    from llmrun.cli.loading import load_engine

    with load_engine(model, options.context, options.threads, options.kv_type) as engine:
        load_seconds = time.perf_counter() - started
        with open_chat(engine, options, store, info) as chat:
            generation = chat.send(text)
            read(generation, streams=not extract and not as_json)
            if as_json:
                from llmrun.cli.answer_json import answer_json

                answer = answer_json(generation, model, load_seconds, info.id if info else None)
                write(json.dumps(answer, ensure_ascii=False) + "\n")
            elif extract:
                write(code_of(generation))
        finish(generation, engine, options.stats)


@contextlib.contextmanager
def open_chat(
    engine: "Engine", options: GenerateOptions, store: "SessionStore | None", info: "SessionInfo | None"
) -> "Iterator[Chat]":
    """The conversation to say something in: a new one, which nobody keeps, or a stored one."""
    params, overflow = options.sampling_params(), options.overflow or "error"
    system = options.system_for(engine.chat_template is not None)
    if store is None or info is None:
        chat = engine.chat(system=system, params=params, raw=options.raw)
        chat.overflow = overflow
        yield chat
        return
    from llmrun.runner.session import Session

    with Session.open(engine, store, info, params, raw=options.raw, notify=say) as session:
        session.chat.overflow = overflow
        if system != session.chat.system:
            session.chat.set_system(system)
        yield session.chat


def read(generation: "Generation", streams: bool) -> None:
    """Read an answer to its end, or to the first Ctrl-C; with `streams` print it as it comes.

    What is printed ends with a line break, its own or one added.
    """
    # a job in the background of a script is started with Ctrl-C ignored, which is to stay so
    is_ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    ends_line = True
    with contextlib.nullcontext() if is_ignored else Interrupt(generation.cancel):
        try:
            for piece in generation:
                if piece.text and streams:
                    write(piece.text)
                    ends_line = piece.text.endswith("\n")
            if not ends_line:
                write("\n")
        except ReaderLeft:
            generation.cancel()  # so that a session keeps what there is
            raise


def code_of(generation: "Generation") -> str:
    """The last code block of the answer. Raises LlmrunError, with the answer on standard error, if there is none."""
    from llmrun.cli.code_block import last_code_block

    block = last_code_block(generation.text)
    if block is None:
        if generation.finish_reason == "cancelled":
            return ""
        print(generation.text, file=sys.stderr)
        raise LlmrunError("the answer above has no code block")
    if not block.is_closed and generation.finish_reason != "stop":
        say("the code ends in the middle, where the answer was cut off")
    return block.code


def finish(generation: "Generation", engine: "Engine", with_stats: bool) -> None:
    """Say how the answer ended, where that is to be said; raises KeyboardInterrupt if Ctrl-C ended it."""
    from llmrun.cli.stats_line import print_ending

    print_ending(generation, engine, with_stats)
    if generation.finish_reason == "cancelled":
        raise KeyboardInterrupt


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
