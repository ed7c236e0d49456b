"""A lock between processes that the operating system lets go of when its holder dies."""

import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

POLL_SECONDS = 0.2


class FileLock:
    """`with FileLock(path):` runs in one process at a time; the file stays, empty, as the thing to lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None

    def __enter__(self) -> "FileLock":
        self._file = open(self.path, "ab")
        try:
            while not _try_lock(self._file.fileno()):
                time.sleep(POLL_SECONDS)
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        assert self._file is not None
        _unlock(self._file.fileno())
        self._file.close()
        self._file = None


if sys.platform == "win32":
    import msvcrt

    def _try_lock(fd: int) -> bool:
        os.lseek(fd, 0, os.SEEK_SET)  # msvcrt locks from the current position
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(fd: int) -> None:
        os.lseek(fd, 0, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _try_lock(fd: int) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_UN)
