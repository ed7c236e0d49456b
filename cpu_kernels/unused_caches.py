"""Deleting the compiled kernels of other versions and processors that nobody used for a month.

A folder's time of change says when it was used last. Other processes may be at work in the same cache: a folder is
taken out of the way by one rename, which is undone if somebody used it at that moment, and only then deleted.
"""

import contextlib
import os
import re
import shutil
import time
from pathlib import Path

KEEP_SECONDS = 30 * 86400
MARK_SECONDS = 86400  # how exact a time of use is

_FOLDER = re.compile(r"[a-z0-9_]+-[0-9a-f]{16}(?P<doomed>\.[0-9]+\.unused)?")


def mark_used(folder: Path) -> None:
    """Note that the kernels of a folder are in use, if it is there."""
    with contextlib.suppress(OSError):  # a cache that one may only read serves as well
        if time.time() - folder.stat().st_mtime > MARK_SECONDS:
            os.utime(folder)


def remove_unused(cache: Path) -> None:
    """Delete the folders of a cache that were not used for KEEP_SECONDS; what cannot be deleted stays."""
    with contextlib.suppress(OSError):
        for folder in list(cache.iterdir()):
            name = _FOLDER.fullmatch(folder.name)
            if name and _is_old(folder):
                _remove(folder, is_doomed=name["doomed"] is not None)


def _remove(folder: Path, is_doomed: bool) -> None:
    """Delete an old folder, or one that a process was killed over while it deleted it."""
    doomed = folder
    try:
        if not is_doomed:
            doomed = folder.rename(folder.with_name(f"{folder.name}.{os.getpid()}.unused"))
            if not _is_old(doomed):  # somebody used it since we looked
                doomed.rename(folder)
                return
    except OSError:  # another process was first, or has begun the folder anew
        return
    shutil.rmtree(doomed, ignore_errors=True)


def _is_old(folder: Path) -> bool:
    try:
        return time.time() - folder.stat().st_mtime > KEEP_SECONDS
    except FileNotFoundError:
        return False
