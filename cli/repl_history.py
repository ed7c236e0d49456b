"""What was typed in chats before."""

import os
from pathlib import Path

from prompt_toolkit.history import FileHistory, History, InMemoryHistory

from llmrun.cli.say import say


def open_history() -> History:
    """The history in the user's data folder, which nobody else may read; in memory, with a notice, if it cannot be."""
    from llmrun.runner.registry import data_folder

    path = data_folder().parent / "chat_history"
    try:
        _make_private(path)
    except OSError as error:
        say(f"what you type is not kept for the next time: {path}: {error.strerror or error}")
        return InMemoryHistory()
    return FileHistory(path)


def _make_private(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600))
    path.chmod(0o600)
