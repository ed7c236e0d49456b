"""Somebody at a terminal: types into a program, and sees the screen that it draws."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from terminal_screen import Screen

TIMEOUT = 120  # for a machine that does other things, too
WHERE = "\x1b[6n"  # asks for the position of the cursor
ECHO = [sys.executable, str(Path(__file__).with_name("echo_engine.py"))]
CTRL_C, CTRL_D, CTRL_G, CTRL_R, ALT_ENTER, TAB = "\x03", "\x04", "\x07", "\x12", "\x1b\r", "\t"


class Person:
    def __init__(self, arguments: list[str], env: dict[str, str], columns: int = 80, rows: int = 24) -> None:
        import pexpect

        variables = os.environ | {"TERM": "xterm-256color", "LLMRUN_THEME": "dark"}
        variables.pop("NO_COLOR", None)
        self.screen = Screen(columns, rows)
        self.raw = ""
        self.background = env.get("BACKGROUND", "")  # which the terminal says it has
        self._child = pexpect.spawn(
            arguments[0],
            arguments[1:],
            env=variables | env,
            dimensions=(rows, columns),
            encoding="utf-8",
            timeout=TIMEOUT,
        )
        self._child.delaybeforesend = None

    @property
    def text(self) -> str:
        return self.screen.text

    def type(self, text: str) -> None:
        self._child.send(text)

    def say(self, text: str, until: str) -> None:
        """Send a line, wait for the next prompt, and look whether `until` has been shown."""
        n_prompts = self._count_prompts()
        self.type(text + "\r")
        self.wait(lambda: self._count_prompts() > n_prompts, "another prompt")
        self.wait_for_prompt()
        assert until in self.text, self.text

    def _count_prompts(self) -> int:
        return sum(line.startswith(">>>") for line in self.screen.lines)

    def paste(self, text: str) -> None:
        self.type(f"\x1b[200~{text}\x1b[201~")

    def resize(self, columns: int, rows: int) -> None:
        self._child.setwinsize(rows, columns)
        self.screen.resize(columns, rows)

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + TIMEOUT
        while not condition():
            assert time.monotonic() < end, f"never saw {what} in:\n{self.text}"
            self.look()

    def wait_for(self, text: str) -> None:
        self.wait(lambda: text in self.text, text)

    def wait_for_prompt(self) -> None:
        """Until a prompt without a text stands at the end, perhaps with the status line below it."""

        def is_there() -> bool:
            cursor = self.screen.screen.cursor
            return cursor.x == 4 and self.screen.screen.display[cursor.y].rstrip() == ">>>"

        self.wait(is_there, "a prompt")

    def look(self, seconds: float = 0.05) -> None:
        """Take in what is shown within some time."""
        import pexpect

        try:
            text = self._child.read_nonblocking(65536, seconds)
        except pexpect.TIMEOUT:
            return
        except pexpect.EOF:
            return
        self.raw += text
        before, question, after = text.partition(WHERE)
        self.screen.write(before)
        if question:
            cursor = self.screen.screen.cursor
            self.type(f"\x1b[{cursor.y + 1};{cursor.x + 1}R")
        self.screen.write(after)
        if "\x1b]11;?" in text and self.background:
            self.type(f"\x1b]11;{self.background}\x07\x1b[?62c")

    def leave(self) -> int:
        """The exit code, once the program has ended."""
        end = time.monotonic() + TIMEOUT
        while self._child.isalive():
            assert time.monotonic() < end, f"it does not end:\n{self.text}"
            self.look()
        self.look()
        self._child.close()
        return self._child.exitstatus if self._child.exitstatus is not None else -self._child.signalstatus

    def close(self) -> None:
        self._child.close(force=True)
