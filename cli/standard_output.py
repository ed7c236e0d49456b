"""Writing the answer, piece by piece, to whoever reads it."""

import errno
import sys


class ReaderLeft(Exception):
    """The program that reads our output has gone, as `head -1` does; it has what it wanted."""


def write(text: str) -> None:
    """Write to standard output at once. Raises ReaderLeft if nobody reads any more."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        # Windows says EINVAL for a pipe without a reader
        if error.errno == errno.EPIPE or (sys.platform == "win32" and error.errno == errno.EINVAL):
            raise ReaderLeft from error
        raise
