"""`llmrun run`: one prompt, one answer."""

import contextlib
import json
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Self

import typer

from llmrun.cli.interrupt import Interrupt
from llmrun.cli.options import Continue, GenerateOptions, Model, SessionName, with_generate_options
from llmrun.cli.pick_session import check_choice, lasting_name, pick_session
from llmrun.cli.say import one_line, say
from llmrun.cli.standard_output import write
from llmrun.quant_formats.errors import InputError, LlmrunError, UsageError

if TYPE_CHECKING:
    from llmrun.runner.chat import Chat
    from llmrun.runner.chat_message import Message
    from llmrun.runner.engine import Engine
    from llmrun.runner.generation import Generation
    from llmrun.runner.session_info import SessionInfo
    from llmrun.runner.session_store import SessionStore

SHOWN = 60  # characters of a message

Prompt = Annotated[
    str | None,
    typer.Argument(metavar="PROMPT", help="What to answer. Text on standard input goes before it."),
]
Extract = Annotated[bool, typer.Option("--extract", help="Print the last code block of the answer, nothing else.")]
AnswerJson = Annotated[bool, typer.Option("--json", help="Print one object: answer, finish_reason, tokens, times.")]


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
    options.grammar()
    text = join_prompt(read_stdin(), prompt)
    recording = None
    if continue_last or session is not None:
        recording = Recording.of(model, session)
        if recording.info is not None:
            options = options.for_session(recording.info)
    started = time.perf_counter()
    from llmrun.cli.loading import load_engine

    with load_engine(model, options.context, options.threads, options.kv_type) as engine:
        load_seconds = time.perf_counter() - started
        with open_chat(engine, options, recording) as (chat, stored_as):
            generation = chat.send(text)
            read(generation, streams=not extract and not as_json)
            if as_json:
                from llmrun.cli.answer_json import answer_json

                answer = answer_json(generation, model, load_seconds, stored_as)
                write(json.dumps(answer, ensure_ascii=False) + "\n")
            elif extract:
                write(code_of(generation))
        finish(generation, engine, options.stats)


@dataclass(frozen=True)
class Recording:
    """Where a conversation is stored, or is going to be."""

    store: "SessionStore"
    info: "SessionInfo | None"  # None if it is yet to begin
    name: str | None
    model: str

    @classmethod
    def of(cls, model: str, name: str | None) -> Self:
        """What -c (without a name) or --session NAME means."""
        from llmrun.runner.session_store import SessionStore

        store = SessionStore()
        return cls(store, pick_session(store, name), name, lasting_name(model))


@contextlib.contextmanager
def open_chat(
    engine: "Engine", options: GenerateOptions, recording: Recording | None
) -> "Iterator[tuple[Chat, str | None]]":
    """The conversation to say something in, and its id: a new one, which nobody keeps and has none, or a stored one."""
    params = options.sampling_params()
    system = options.system_for(engine.chat_template is not None)
    if recording is None:
        chat = engine.chat(system=system, params=params, raw=options.raw)
        prepare(chat, options)
        yield chat, None
        return
    from llmrun.runner.session import Session

    store = recording.store
    info = recording.info or store.create(recording.name, recording.model, system, options.session_settings())
    with (
        contextlib.closing(store),
        Session.open(engine, store, info, params, raw=options.raw, notify=say) as session,
    ):
        if info.model != recording.model:
            store.set_model(info.id, recording.model)
        if "system" in options.given and system != session.chat.system:
            session.chat.set_system(system)
        prepare(session.chat, options)
        yield session.chat, info.id


def prepare(chat: "Chat", options: GenerateOptions) -> None:
    """What the answers look like, what is to happen when the context is full, and that it is said."""
    from llmrun.runner.overflow import overflow_named

    chat.grammar = options.grammar()
    chat.overflow = overflow_named(options.overflow or "error")
    chat.on_drop = say_dropped


def say_dropped(messages: "list[Message]") -> None:
    """Name what leaves the context."""
    first = one_line(messages[0]["content"])
    shown = first if len(first) <= SHOWN else first[: SHOWN - 3] + "..."
    many = f"the {len(messages)} oldest messages leave" if len(messages) > 1 else "the oldest message leaves"
    say(f"the context is full: {many} it, from {shown!r} on")


def read(generation: "Generation", streams: bool) -> None:
    """Read an answer to its end, or to the first Ctrl-C; with `streams` print it as it comes.

    What is printed ends with a line break, its own or one added.
    """
    # a job in the background of a script is started with Ctrl-C ignored, which is to stay so
    is_ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    ends_line = True
    with contextlib.nullcontext() if is_ignored else Interrupt(generation.cancel):
        for piece in generation:
            if piece.text and streams:
                write(piece.text)
                ends_line = piece.text.endswith("\n")
        if not ends_line:
            write("\n")


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
