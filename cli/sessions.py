"""`llmrun sessions`: the stored conversations."""

import json
from contextlib import closing
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmrun.cli.options import Json
from llmrun.cli.say import human_bytes, one_line, say
from llmrun.cli.standard_output import write
from llmrun.quant_formats.errors import UsageError

if TYPE_CHECKING:
    from llmrun.runner.session_info import SessionInfo
    from llmrun.runner.session_store import SessionStore

sessions = typer.Typer(help="List, show, rename, remove and export stored conversations.", rich_markup_mode=None)


def complete_session(incomplete: str) -> list[str]:
    """Names and ids for the shell to offer."""
    with closing(_open()) as store:
        labels = [info.label for info in store.list()]
    return [label for label in labels if label.startswith(incomplete)]


SESSION = typer.Argument(
    metavar="SESSION",
    help="A name, an id, or the beginning of one.",
    show_default=False,
    autocompletion=complete_session,
)
Which = Annotated[str, SESSION]
Several = Annotated[list[str], SESSION]
Search = Annotated[
    str | None, typer.Option("--search", metavar="WORDS", help="Only those in which all these words occur.")
]
NewName = Annotated[str, typer.Argument(metavar="NAME", help='The name to give; "" takes it away.')]
Format = Annotated[str, typer.Option("--format", metavar="FORMAT", help="markdown, json or text.")]


def _open() -> "SessionStore":
    from llmrun.runner.session_store import SessionStore

    return SessionStore()


@sessions.command("list")
def list_sessions(search: Search = None, as_json: Json = False) -> None:
    """Show the conversations, the one used last first."""
    with closing(_open()) as store:
        infos = store.list(search)
        if as_json:
            write(json.dumps([_facts(info, store) for info in infos], indent=2, ensure_ascii=False) + "\n")
            return
    now = datetime.now().astimezone()
    rows = [
        (
            one_line(info.label),
            _age((now - info.updated).total_seconds()),
            f"{info.n_messages} message{'s' if info.n_messages != 1 else ''}",
            one_line(info.model),
            one_line(info.title),
        )
        for info in infos
    ]
    widths = [max((len(cell) for cell in column), default=0) for column in zip(*rows, strict=True)]
    for row in rows:
        write("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() + "\n")
    if not rows:
        say(f"no conversation has all of {search!r} in it" if search else "there is no stored conversation yet")


@sessions.command("show")
def show_session(session: Which, as_json: Json = False) -> None:
    """Show one conversation: what is known of it, and what was said."""
    with closing(_open()) as store:
        info = store.find(session)
        facts, said = _facts(info, store), store.messages(info.id)
        if as_json:
            write(json.dumps(facts | {"messages": said}, indent=2, ensure_ascii=False) + "\n")
            return
        text = store.export(info.id, "text")
    lines = [
        ("id", info.id),
        ("name", info.name or "none"),
        ("model", info.model),
        ("settings", ", ".join(f"{name} {value}" for name, value in info.settings.items()) or "the usual ones"),
        ("begun", f"{info.created:%Y-%m-%d %H:%M}"),
        ("last used", f"{info.updated:%Y-%m-%d %H:%M}"),
        ("messages", str(info.n_messages)),
        ("context", f"{info.n_tokens} tokens in use"),
        ("on disk", human_bytes(facts["disk_bytes"])),
    ]
    write("".join(f"{label:16}{one_line(value)}\n" for label, value in lines) + f"\n{_visible(text)}")


@sessions.command("rename")
def rename_session(session: Which, name: NewName) -> None:
    """Give a conversation a name, by which `--session NAME` finds it."""
    with closing(_open()) as store:
        store.rename(store.find(session).id, name or None)


@sessions.command("rm")
def remove_sessions(session: Several) -> None:
    """Delete conversations, with everything that is stored of them."""
    with closing(_open()) as store:
        found = {info.id: info for info in map(store.find, session)}  # all of them are there, or none goes
        for info in found.values():
            store.remove(info.id)
            say(f"removed {info.label}" + (f": {info.title}" if info.title else ""))


@sessions.command("export")
def export_session(session: Which, format: Format = "markdown") -> None:
    """Print a conversation as Markdown, JSON or plain text."""
    match format:
        case "markdown" | "json" | "text":
            with closing(_open()) as store:
                write(store.export(store.find(session).id, format))
        case _:
            raise UsageError(f"--format must be markdown, json or text, not {format!r}")


def _facts(info: "SessionInfo", store: "SessionStore") -> dict[str, Any]:
    """What is known of a conversation, for programs."""
    return {
        "id": info.id,
        "name": info.name,
        "title": info.title,
        "model": info.model,
        "system": info.system,
        "settings": dict(info.settings),
        "created": info.created.isoformat(),
        "updated": info.updated.isoformat(),
        "n_messages": info.n_messages,
        "n_tokens": info.n_tokens,
        "disk_bytes": store.disk_bytes(info.id),
    }


def _age(seconds: float) -> str:
    """How long ago, in the largest unit that fits."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit} ago"
    return "just now"


def _visible(text: str) -> str:
    """The text without what could steer a terminal: a model can be made to write anything."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)
