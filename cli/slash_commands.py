"""What can be done in a chat beside talking: one small function for each command, whose docstring is its help."""

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmrun.quant_formats.errors import InputError, MissingFile, UsageError

if TYPE_CHECKING:
    from llmrun.cli.repl import Repl

Run = Callable[["Repl", str], None]
Words = Callable[["Repl"], Iterable[str]]


@dataclass(frozen=True)
class SlashCommand:
    """A row of /help."""

    name: str
    arguments: str
    help: str
    run: Run
    words: Words  # what may follow it, for Tab
    aliases: tuple[str, ...] = ()
    takes_path: bool = False


COMMANDS: dict[str, SlashCommand] = {}  # by name, in the order of /help
KEYS = (
    ("Ctrl-C", "stop an answer; what was said so far is kept"),
    ("Ctrl-D", "leave"),
    ("Ctrl-R", "search what was typed before"),
    ("Ctrl-G", "write in the editor that EDITOR names"),
    ("Alt-Enter", "begin a new line"),
    ('"""', "begins and ends a text of several lines"),
)


def command(
    name: str, arguments: str = "", *aliases: str, words: Words = lambda _repl: (), takes_path: bool = False
) -> Callable[[Run], Run]:
    """Make a function a command; its docstring is the help."""

    def register(run: Run) -> Run:
        text = " ".join((run.__doc__ or "").split())
        COMMANDS[name] = SlashCommand(name, arguments, text, run, words, aliases, takes_path)
        return run

    return register


def command_named(name: str) -> SlashCommand:
    """The command of a name or alias; raises UsageError with what comes near."""
    for known in COMMANDS.values():
        if name == known.name or name in known.aliases:
            return known
    import difflib

    near = difflib.get_close_matches(name, [*COMMANDS, *(a for c in COMMANDS.values() for a in c.aliases)], n=1)
    raise UsageError(f"{name} is not a command; {f'did you mean {near[0]}?' if near else '/help shows them'}")


def help_lines() -> list[tuple[str, str]]:
    """Each command and key, and what it does."""
    lines = [(f"{c.name} {c.arguments}".strip(), c.help) for c in COMMANDS.values()]
    return [*lines, ("", ""), *KEYS]


@command("/help", "", "/?")
def _help(repl: "Repl", _text: str) -> None:
    """this list"""
    from llmrun.cli.markdown_text import Row, wrap

    width = max(len(left) for left, _ in help_lines()) + 2
    columns = repl.terminal.size[0]
    rows: list[Row] = []
    for left, right in help_lines():
        for i, row in enumerate(wrap([(right, ())], max(20, columns - width - 1))):
            rows.append([((left if i == 0 else "").ljust(width), ("marker",)), *row])
    repl.print_rows(rows)


@command("/system", "[TEXT|off]")
def _system(repl: "Repl", text: str) -> None:
    """other instructions, from the next message on; alone, show them"""
    chat = repl.conversation.chat
    if text:
        chat.set_system(None if text == "off" else text)
    repl.note(f"instructions: {chat.system}" if chat.system else "there are no instructions")


def _settable(_repl: "Repl") -> list[str]:
    from llmrun.cli.setting import SETTINGS

    return [*(s.name for s in SETTINGS.values() if s.is_sampling), "theme", "overflow"]


@command("/set", "[NAME VALUE]", words=_settable)
def _set(repl: "Repl", text: str) -> None:
    """change temperature, top_p, seed, max_tokens, theme, ...; alone, show them"""
    from llmrun.cli.setting import SETTINGS, hint
    from llmrun.cli.theme import THEMES
    from llmrun.runner.overflow import overflow_named

    conversation = repl.conversation
    name, _, value = text.removeprefix("parameter ").partition(" ")
    name = name.replace("-", "_")
    if not text:
        _show_parameters(repl)
    elif name not in (names := _settable(repl)):
        raise UsageError(f"{name!r} cannot be set here; {hint(name, names)}")
    elif not value.strip():
        raise UsageError(f"/set {name} needs a value")
    elif name == "theme":
        if value.strip() not in THEMES:
            raise UsageError(f"the themes are {', '.join(THEMES)}")
        repl.theme = THEMES[value.strip()]
    elif name == "overflow":
        conversation.chat.overflow = overflow_named(str(SETTINGS[name].parse(value)))
    else:
        parsed = SETTINGS[name].parse(value)
        conversation.params = dataclasses.replace(conversation.params, **{name: parsed})  # type: ignore[arg-type]
    if text:
        repl.note(f"{name} is {value.strip()}")


@command("/show", "[WHAT]", words=lambda _repl: ("info", "parameters", "system", "template"))
def _show(repl: "Repl", text: str) -> None:
    """the model and the conversation; or its parameters, system, template"""
    match text:
        case "" | "info":
            _show_info(repl)
        case "parameters":
            _show_parameters(repl)
        case "system":
            _system(repl, "")
        case "template":
            template = repl.conversation.engine.chat_template
            repl.print_rows([[(template.source, ())]] if template else [[("the model has no chat template", ("dim",))]])
        case _:
            raise UsageError(f"/show {text} is not known; there are info, parameters, system and template")


@command("/clear", "", "/new")
def _clear(repl: "Repl", _text: str) -> None:
    """begin a new conversation; the one before stays in /sessions"""
    before = repl.conversation.info
    repl.conversation.begin()
    repl.attached.clear()
    repl.note(
        f"a new conversation; the one before is kept as {before.label}" if before.n_messages else "nothing was said"
    )


@command("/retry", "", "/regen")
def _retry(repl: "Repl", _text: str) -> None:
    """another answer to the last message"""
    repl.answer(repl.conversation.chat.retry, repl.retry_params())


@command("/edit", "[TEXT]")
def _edit(repl: "Repl", text: str) -> None:
    """change the last message, in the editor or to TEXT, and have it answered anew"""
    from llmrun.cli.repl_editor import edit_text

    chat = repl.conversation.chat
    last = next((m["content"] for m in reversed(chat.messages) if m["role"] == "user"), None)
    if last is None:
        raise UsageError("there is no message to edit yet")
    new = text or edit_text(last)
    if new == last or not new.strip():
        repl.note("nothing was changed")
        return
    if not text:
        repl.note(new)
    repl.answer(lambda params: chat.edit(new, params))


@command("/undo")
def _undo(repl: "Repl", _text: str) -> None:
    """take back the last message and its answer"""
    message = repl.conversation.chat.undo()
    if message is None:
        raise UsageError("there is nothing to take back")
    first = " ".join(message["content"].split())
    repl.note(f'taken back: "{first[:60]}{"…" if len(first) > 60 else ""}"')


@command("/save", "NAME")
def _save(repl: "Repl", text: str) -> None:
    """give this conversation a name; it is saved as it goes, with or without one"""
    if not text:
        raise UsageError("/save needs a name")
    repl.conversation.store.rename(repl.conversation.info.id, text)
    repl.note(f"this conversation is called {text}")


def _session_names(repl: "Repl") -> list[str]:
    return [info.label for info in repl.conversation.store.list()]


@command("/load", "NAME", words=_session_names)
def _load(repl: "Repl", text: str) -> None:
    """go on with another conversation, by its name or id"""
    if not text:
        raise UsageError("/load needs a name or an id; /sessions shows them")
    repl.conversation.load(text)
    repl.attached.clear()
    show_where_it_stands(repl)


@command("/sessions", "[WORDS]")
def _sessions(repl: "Repl", text: str) -> None:
    """the conversations on this machine; with WORDS, those in which they occur"""
    found = repl.conversation.store.list(text or None)
    if not found:
        repl.note("there are none" + (f" with {text!r}" if text else " yet"))
    here = repl.conversation.info.id
    for info in found[:20]:
        mark = "*" if info.id == here else " "
        when = info.updated.strftime("%d %b %H:%M")
        line = f"{mark} {info.label:12} {when}  {info.n_messages:>3} messages  {info.title}"
        repl.print_rows([[(_fitted(line, repl.terminal.size[0] - 1), ())]])
    if len(found) > 20:
        repl.note(f"and {len(found) - 20} older; /sessions WORDS finds them, llmrun sessions list shows all")


def _models(_repl: "Repl") -> list[str]:
    from llmrun.runner.registry import entries

    return [name for name, entry in entries().items() if entry.is_installed]


@command("/model", "[MODEL]", words=_models)
def _model(repl: "Repl", text: str) -> None:
    """go on with another model; alone, show which one it is"""
    if text:
        repl.conversation.switch(text)
        repl.last = None
    repl.note(f"the model is {repl.conversation.model}")


@command("/file", "PATH", takes_path=True)
def _file(repl: "Repl", text: str) -> None:
    """have the text of a file go with the next message"""
    if not text:
        raise UsageError("/file needs the path of a file")
    path = Path(text.strip("\"'")).expanduser()
    content = _read(path)
    n_tokens = len(repl.conversation.engine.tokenize(content))
    left = repl.conversation.chat.n_ctx - repl.conversation.chat.n_tokens
    fence = "```" if "```" not in content else "~~~~"
    repl.attached.append(f"{path.name}:\n{fence}{path.suffix[1:]}\n{content.rstrip()}\n{fence}")
    repl.note(f"{path.name}, {n_tokens:,} tokens, goes with your next message; {left:,} tokens of the context are free")


@command("/copy", "[code]", words=lambda _repl: ("code",))
def _copy(repl: "Repl", text: str) -> None:
    """put the last answer, or its last block of code, on the clipboard"""
    from llmrun.cli.code_block import last_code_block

    answer = next((m["content"] for m in reversed(repl.conversation.chat.messages) if m["role"] == "assistant"), None)
    if answer is None:
        raise UsageError("there is no answer to copy yet")
    if text == "code":
        block = last_code_block(answer)
        if block is None:
            raise UsageError("the last answer has no block of code")
        answer = block.code
    if repl.terminal.is_dumb:
        raise UsageError("this terminal has no way to the clipboard")
    repl.terminal.copy(answer)
    repl.note(
        f"{len(answer):,} characters handed to the terminal's clipboard (OSC 52, which some terminals do not allow)"
    )


@command("/stats")
def _stats(repl: "Repl", _text: str) -> None:
    """print speed and token counts after each answer, or stop to"""
    from llmrun.cli.stats_line import stats_line

    repl.with_stats = not repl.with_stats
    repl.note(f"statistics are {'on' if repl.with_stats else 'off'}")
    if repl.with_stats and repl.last is not None:
        repl.note(stats_line(repl.last))


@command("/think", "[show|fold|hide]", words=lambda _repl: ("show", "fold", "hide"))
def _think(repl: "Repl", text: str) -> None:
    """what to do with what a model thinks before it answers; alone, show the last thoughts"""
    match text:
        case "":
            if not repl.last_thoughts:
                repl.note("there are no thoughts; not every model has them")
                return
            from llmrun.cli.repl_thoughts import Thoughts

            thoughts = Thoughts(repl.terminal.size[0] - 1, "show")
            repl.print_rows(thoughts.feed(repl.last_thoughts + "\n"))
        case "show" | "fold" | "hide":
            repl.thoughts_mode = text
            repl.note(
                {"show": "thoughts are shown", "fold": "thoughts are folded", "hide": "thoughts are hidden"}[text]
            )
        case _:
            raise UsageError(f"/think {text} is not known; there are show, fold and hide")


@command("/quit", "", "/bye", "/exit")
def _quit(repl: "Repl", _text: str) -> None:
    """leave, as does Ctrl-D"""
    repl.is_leaving = True


def show_where_it_stands(repl: "Repl") -> None:
    """The last exchange of a conversation that goes on."""
    info, messages = repl.conversation.info, repl.conversation.chat.messages
    repl.note(f"going on with {info.label}: {len(messages)} messages")
    last = next((i for i in reversed(range(len(messages))) if messages[i]["role"] == "user"), None)
    if last is None:
        return
    for message in messages[last:]:
        if message["role"] == "user":
            first, *rest = message["content"].split("\n")
            lines = [f">>> {first}", *(f"... {line}" for line in rest[:5]), *(["... …"] if len(rest) > 5 else [])]
            repl.print_rows([[(line, ("dim",))] for line in lines])
        else:
            from llmrun.cli.markdown_stream import MarkdownStream

            stream = MarkdownStream(repl.terminal.size[0] - 1)
            repl.print_rows([*stream.feed(_without_thoughts(message["content"])), *stream.finish(), []])


def _without_thoughts(text: str) -> str:
    from llmrun.runner.reasoning import Reasoning

    reasoning = Reasoning()
    return "".join(part for is_thought, part in [*reasoning.feed(text), *reasoning.finish()] if not is_thought)


def _show_info(repl: "Repl") -> None:
    conversation, chat = repl.conversation, repl.conversation.chat
    info = conversation.info
    config = conversation.engine.model.config
    lines = {
        "model": f"{conversation.model} ({config.architecture}, {config.n_layers} layers)",
        "context": f"{chat.n_tokens:,} of {chat.n_ctx:,} tokens, {chat.overflow} when it is full",
        "session": f"{info.label}, {info.n_messages} messages",
        "instructions": chat.system or "none",
        "out of context": f"{chat.n_dropped} messages" if chat.n_dropped else "nothing",
    }
    for label, value in lines.items():
        repl.print_rows([[(label.ljust(16), ("marker",)), (" ".join(value.split()), ())]])


def _show_parameters(repl: "Repl") -> None:
    params = repl.conversation.params
    for field in dataclasses.fields(params):
        if field.name not in ("logit_bias", "stop_ids"):
            value = getattr(params, field.name)
            shown = "not set" if value is None or value == () else str(value)
            repl.print_rows([[(field.name.ljust(20), ("marker",)), (shown, ())]])


def _read(path: Path) -> str:
    """The text of a file; raises MissingFile or InputError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MissingFile(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text in UTF-8 (byte {error.start})") from error


def _fitted(text: str, columns: int) -> str:
    from llmrun.cli.markdown_text import printable, width_of

    text = printable(text)
    if width_of(text) <= columns:
        return text
    while text and width_of(text) >= columns:
        text = text[:-1]
    return text + "…"
