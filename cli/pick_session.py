"""Which stored conversation `-c` and `--session NAME` mean."""

from pathlib import Path
from typing import TYPE_CHECKING

from llmrun.quant_formats.errors import UnknownSession, UsageError

if TYPE_CHECKING:
    from llmrun.runner.session_info import SessionInfo
    from llmrun.runner.session_store import SessionStore


def check_choice(continue_last: bool, name: str | None) -> None:
    """Raise UsageError if both are asked for, or a name that is none."""
    if continue_last and name is not None:
        raise UsageError("-c goes on with the last conversation and --session with a named one; leave one of them out")
    if name is not None and not name.strip():
        raise UsageError("--session needs a name")


def pick_session(store: "SessionStore", name: str | None) -> "SessionInfo | None":
    """The conversation of that name or id, None if it is yet to begin; without a name the one that was used last.

    Raises UnknownSession if none was used yet.
    """
    if name is None:
        last = store.last()
        if last is None:
            raise UnknownSession("there is no conversation to go on with yet; --session NAME begins one")
        return last
    try:
        found = store.find(name)
    except UnknownSession:
        return None
    # `find` takes the beginning of an id, too; somebody who names a conversation means that one or a new one
    return found if name in (found.name, found.id) else None


def lasting_name(model: str) -> str:
    """MODEL of the command line so that it means the same in another folder."""
    return str(Path(model).resolve()) if Path(model).exists() else model
