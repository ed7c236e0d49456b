"""The chat in a terminal: a pseudo-terminal, with a person typing."""

import os
import re
import select
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")

FAKE = [sys.executable, str(Path(__file__).with_name("fake_engine.py"))]
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[=>]|\x1b\][^\x07]*\x07")
TIMEOUT = 30
Start = Callable[..., "Person"]


class Person:
    """Types into the terminal of a process and reads what it shows."""

    def __init__(self, arguments: list[str], env: dict[str, str]) -> None:
        import pty

        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(arguments[0], arguments, os.environ | {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"} | env)
        self.seen = ""
        self.status: int | None = None

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def wait_for(self, text: str) -> str:
        """What was shown up to `text`, without escapes."""
        end = time.monotonic() + TIMEOUT
        while text not in self.seen:
            assert time.monotonic() < end, f"never saw {text!r} in {self.seen!r}"
            if select.select([self.fd], [], [], 0.2)[0]:
                try:
                    data = os.read(self.fd, 4096).decode(errors="replace")
                except OSError:  # how Linux reports the end of a terminal
                    data = ""
                assert data, f"it ended before {text!r}: {self.seen!r}"
                self.seen += ESCAPES.sub("", data)
        before, self.seen = self.seen.split(text, 1)
        return before

    def wait(self) -> int:
        """Exit code of the process."""
        end = time.monotonic() + TIMEOUT
        while self.status is None:
            assert time.monotonic() < end, "it does not end"
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
            elif select.select([self.fd], [], [], 0.05)[0]:
                try:
                    os.read(self.fd, 4096)
                except OSError:
                    continue
        return self.status

    def close(self) -> None:
        if self.status is None:
            import signal

            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)


@pytest.fixture
def chat(tmp_path: Path) -> Iterator[Start]:
    """Start a chat: chat("--option", NAME="value")."""
    people: list[Person] = []
    model = tmp_path / "fake.gguf"
    model.write_bytes(b"GGUF")

    def start(*options: str, **env: str) -> Person:
        people.append(Person([*FAKE, "chat", str(model), *options], env))
        people[-1].wait_for(">>>")
        return people[-1]

    yield start
    for person in people:
        person.close()


def test_turns_and_leaving(chat: Start) -> None:
    person = chat()
    person.type("hello\r")
    person.wait_for("[None|0] hello")
    person.wait_for(">>>")
    person.type("again\r")
    person.wait_for("[None|1] again")
    person.wait_for(">>>")
    person.type("\x04")
    assert person.wait() == 0


def test_ctrl_c_stops_the_answer_and_keeps_the_chat(chat: Start) -> None:
    person = chat(FAKE_SLOW="0.05")
    person.type("a b c d e f g h i j k l m n o p q r s t u v w x y z END\r")
    person.wait_for("[None|0]")
    person.wait_for("c d")
    person.type("\x03")
    assert "END" not in person.wait_for(">>>")
    person.type("next\r")
    person.wait_for("[None|1] next")
    person.wait_for(">>>")
    person.type("/bye\r")
    assert person.wait() == 0


def test_commands(chat: Start) -> None:
    person = chat()
    person.type("/help\r")
    person.wait_for("/system TEXT")
    person.wait_for("Ctrl-C")
    person.type("/system be brief\r")
    person.type("one\r")
    person.wait_for("[be brief|0] one")
    person.type("/stats\r")
    person.wait_for("statistics are on")
    person.type("two\r")
    person.wait_for("[be brief|1] two")
    person.wait_for("tok/s")
    person.type("/clear\r")
    person.type("three\r")
    person.wait_for("[be brief|0] three")
    person.type("/nonsense\r")
    person.wait_for("/nonsense is not a command")


def test_several_lines(chat: Start) -> None:
    person = chat()
    person.type('"""one\r')
    person.wait_for("...")
    person.type('two"""\r')
    person.wait_for("[None|0] one")
    person.wait_for("two")


def test_a_turn_that_fails_leaves_the_chat_usable(chat: Start) -> None:
    person = chat()
    person.type("TOO LONG\r")
    person.wait_for("error: the prompt is too long")
    person.type("short\r")
    person.wait_for("[None|0] short")


def test_a_base_model_says_so() -> None:
    person = Person([*FAKE, "chat", str(Path(__file__))], {"FAKE_BASE": "1"})
    try:
        person.wait_for("base model without a chat template")
        person.wait_for(">>>")
    finally:
        person.close()
