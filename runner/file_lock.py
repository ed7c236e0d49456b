"""A lock between processes that the operating system lets go of when its holder dies."""

import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

POLL_SECONDS = 0.2


class FileLock:
    """`with FileLock(path):` runs in one process at a time; the file stays, as the thing to lock.

    The first byte is what is locked, the rest says which process has it: a locked byte cannot be read on Windows.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None

    def try_acquire(self) -> bool:
        """Take the lock unless somebody has it; returns whether it was taken."""
        assert self._file is None, "the lock is held already"
        # not "r+": the file may not be there; not "w": it would wipe the holder's process id
        file = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666), "r+b", 0)
        try:
            if not _try_lock(file.fileno()):
                file.close()
                return False
        except BaseException:
            file.close()
            raise
        self._file = file
        return True

    def write_holder(self) -> None:
        """Say in the file that this process has the lock, for `holder`."""
        assert self._file is not None
        self._file.seek(0)
        self._file.write(f" {os.getpid()}\n".encode())
        self._file.truncate()

    def holder(self) -> int | None:
        """The process that wrote its id last, None if there is none; ask while the lock is taken."""
        try:
            with open(self.path, "rb", 0) as file:
                file.seek(1)
                return int(file.read(20))
        except (OSError, ValueError):  # it has just been taken, or has just gone
            return None

    def release(self) -> None:
        """Let go."""
        assert self._file is not None, "the lock is not held"
        _unlock(self._file.fileno())
        self._file.close()
        self._file = None

    def __enter__(self) -> "FileLock":
        while not self.try_acquire():
            time.sleep(POLL_SECONDS)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.release()


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
