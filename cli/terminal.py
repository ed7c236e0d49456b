"""The terminal that a person sits at: its size, its colours, and what it echoes."""

import base64
import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from typing import Any

from llmrun.cli.standard_output import write
from llmrun.cli.theme import Color, color_of

REPLY_SECONDS = 0.2  # a terminal here answers within some milliseconds


class Terminal:
    """Standard input and output, where both are a terminal."""

    def __init__(self) -> None:
        # one that can only print lines, as in some editors
        self.is_dumb = sys.platform != "win32" and os.environ.get("TERM", "dumb") in ("dumb", "unknown", "")
        if sys.platform == "win32":
            _let_windows_obey_codes()

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows."""
        size = shutil.get_terminal_size() if sys.stdout is None else _size_of(sys.stdout.fileno())
        return max(size[0], 2), max(size[1], 2)

    def write(self, text: str) -> None:
        """Write at once; raises ReaderLeft if the terminal is gone."""
        write(text)

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Without a cursor and without an echo of what is typed meanwhile, which would end up in the answer.

        What is typed is there for the next prompt; Ctrl-C works.
        """
        if self.is_dumb:
            yield
            return
        before = _without_echo()
        write("\x1b[?25l")
        try:
            yield
        finally:
            write("\x1b[?25h")
            if before is not None:
                _restore(before)

    def copy(self, text: str) -> None:
        """Put a text on the clipboard, if the terminal allows it (OSC 52); it works over ssh too."""
        write(f"\x1b]52;c;{base64.b64encode(text.encode()).decode()}\x07")

    def background(self) -> Color | None:
        """The colour behind the text, if the terminal says so soon (OSC 11).

        It is also asked what it is, which every terminal answers, so that nobody waits for one that knows no colours.
        """
        if self.is_dumb or sys.platform == "win32":
            return None
        return color_of(_ask("\x1b]11;?\x07\x1b[c", b"c"))


def _size_of(descriptor: int) -> tuple[int, int]:
    try:
        return tuple(os.get_terminal_size(descriptor))  # type: ignore[return-value]
    except OSError:
        return tuple(shutil.get_terminal_size())  # type: ignore[return-value]


def _without_echo() -> Any:
    """Turn the echo off; returns what to restore, None where nothing was done."""
    if sys.platform == "win32":
        return None  # echoes only while somebody reads
    import termios

    try:
        before = termios.tcgetattr(sys.stdin.fileno())
        after = termios.tcgetattr(sys.stdin.fileno())
        after[3] &= ~termios.ECHO
        termios.tcsetattr(sys.stdin.fileno(), termios.TCSANOW, after)
    except termios.error:
        return None
    return before


def _restore(before: Any) -> None:
    if sys.platform != "win32":
        import termios

        with contextlib.suppress(termios.error):  # the terminal may be gone
            termios.tcsetattr(sys.stdin.fileno(), termios.TCSANOW, before)


def _ask(question: str, end: bytes) -> bytes:
    """What the terminal replies, up to `end` or REPLY_SECONDS; nothing is asked if something was typed already."""
    if sys.platform == "win32":
        return b""
    import select
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    if select.select([descriptor], [], [], 0)[0]:
        return b""
    try:
        before = termios.tcgetattr(descriptor)
        tty.setcbreak(descriptor, termios.TCSANOW)
    except termios.error:
        return b""
    reply = b""
    try:
        write(question)
        until = time.monotonic() + REPLY_SECONDS
        while not reply.endswith(end) and (left := until - time.monotonic()) > 0:
            if select.select([descriptor], [], [], left)[0]:
                reply += os.read(descriptor, 64)
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)
    return reply


def _let_windows_obey_codes() -> None:
    if sys.platform == "win32":
        import ctypes

        kernel = ctypes.windll.kernel32
        handle, mode = kernel.GetStdHandle(-11), ctypes.c_ulong()
        if kernel.GetConsoleMode(handle, ctypes.byref(mode)):
            kernel.SetConsoleMode(handle, mode.value | 4)  # ENABLE_VIRTUAL_TERMINAL_PROCESSING
