"""Writing a text in the user's own editor."""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from llmrun.quant_formats.errors import UsageError

CANDIDATES = ("notepad",) if sys.platform == "win32" else ("sensible-editor", "nano", "vi")


def edit_text(text: str) -> str:
    """What becomes of the text in $VISUAL, $EDITOR or the usual editor, without line breaks at its end.

    Raises UsageError if there is no editor or it fails; the text is then as it was.
    """
    command = _command()
    descriptor, name = tempfile.mkstemp(prefix="llmrun-", suffix=".md")  # readable by its owner alone
    path = Path(name)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        try:
            status = subprocess.run([*command, name], check=False).returncode
        except OSError as error:
            raise UsageError(f"{command[0]} cannot be started: {error.strerror}; set EDITOR to your editor") from error
        if status:
            raise UsageError(f"{command[0]} ended with status {status}, so nothing was changed")
        return path.read_text(encoding="utf-8", errors="replace").rstrip("\r\n")
    finally:
        path.unlink(missing_ok=True)


def _command() -> list[str]:
    for variable in ("VISUAL", "EDITOR"):
        if value := os.environ.get(variable, "").strip():
            return [value] if sys.platform == "win32" else shlex.split(value)
    found = next((name for name in CANDIDATES if shutil.which(name)), None)
    if found is None:
        raise UsageError("there is no editor; set EDITOR to yours")
    return [found]
