"""`llmrun run` on the real engine and real sessions: conversations, JSON, code blocks, signals."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.cli.code_block import last_code_block
from llmrun.runner.session_store import SessionStore

MOCK = [sys.executable, str(Path(__file__).with_name("mock_run.py"))]
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals are of POSIX")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLMRUN_HOME", str(tmp_path / "home"))
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def run(*arguments: str, stdin: bytes = b"", **env: str) -> subprocess.CompletedProcess[bytes]:
    return call("run", "m.gguf", *arguments, stdin=stdin, **env)


def call(*arguments: str, stdin: bytes = b"", **env: str) -> subprocess.CompletedProcess[bytes]:
    command = [*MOCK, *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, env=os.environ | env, timeout=60, check=False)


def start(*arguments: str, **env: str) -> subprocess.Popen[bytes]:
    command = [*MOCK, "run", "m.gguf", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=os.environ | env)


def test_json_has_the_answer_and_what_it_took() -> None:
    done = run("hello ☃", "--json", "--seed", "7")
    result = json.loads(done.stdout)
    assert done.stderr == b""
    assert (result["answer"], result["finish_reason"], result["seed"]) == ("You said: hello ☃", "stop", 7)
    assert (result["model"], result["session"], result["cached_tokens"]) == ("m.gguf", None, 0)
    assert result["answer_tokens"] == len("You said: hello ☃".encode()) + 1
    assert result["prompt_tokens"] == len("?user\nhello ☃??assistant\n".encode())
    for name in ("load_seconds", "first_token_seconds", "prefill_seconds", "decode_seconds"):
        assert 0 < result[name] < 60
    assert json.loads(run("hello", "--json", "--max-tokens", "3").stdout)["finish_reason"] == "length"


def test_a_named_conversation_goes_on() -> None:
    assert run("one", "--session", "trip", "--temp", "0.3", "-s", "Be brief.").stdout == b"You said: one\n"
    result = json.loads(run("two", "--session", "trip", "--json").stdout)
    assert result["cached_tokens"] > 0
    assert json.loads(run("three", "-c", "--json").stdout)["session"] == result["session"]
    store = SessionStore()
    info = store.find("trip")
    assert info.id == result["session"]
    assert [m["content"] for m in store.messages(info.id) if m["role"] == "user"] == ["one", "two", "three"]
    assert (dict(info.settings), info.system) == ({"temperature": 0.3}, "Be brief.")
    assert Path(info.model).is_absolute()
    store.close()
    assert run("four", "--session", "tri").returncode == 0  # a name of its own, not the beginning of another
    assert len(json.loads(call("sessions", "list", "--json").stdout)) == 2


def test_nothing_is_recorded_unless_asked_for(home: Path) -> None:
    assert run("one").returncode == 0
    assert not home.exists()
    done = run("one", "-c")
    assert done.returncode == 11
    assert b"no conversation to go on with" in done.stderr


def test_a_conversation_that_is_open_elsewhere() -> None:
    with start("hello there, how are you?", "--session", "busy", MOCK_SLOW="0.1") as process:
        assert process.stdout is not None
        process.stdout.read(4)
        done = run("me too", "--session", "busy")
        process.kill()
    assert done.returncode == 11
    assert str(process.pid).encode() in done.stderr


def test_what_leaves_a_full_context_is_said() -> None:
    long = "x" * 60
    for options, n_lines in ((("--overflow", "window"), 1), (("--overflow", "shift"), 1)):
        name = options[1]
        assert run(long, "--session", name).returncode == 0
        done = run(long, "--session", name, "--ctx", "256", "--max-tokens", "64", *options)
        assert done.returncode == 0
        lines = done.stderr.decode().splitlines()
        assert len(lines) == n_lines
        assert "the context is full: the 2 oldest messages leave it, from 'xxx" in lines[0]
    done = run("y" * 200, "--ctx", "128")
    assert done.returncode == 6
    assert done.stdout == b""


FENCED = "Here:\n```python\nfirst\n```\nand\n  ~~~\n  if x:\n    second ```\n\n  ~~~\nDone.\n"


def test_extract_prints_the_last_code_block() -> None:
    assert run("code?", "--extract", MOCK_SAYS=FENCED).stdout.replace(b"\r", b"") == b"if x:\n  second ```\n\n"
    cut = run("code?", "--extract", "--max-tokens", "21", MOCK_SAYS=FENCED)
    assert cut.stdout.replace(b"\r", b"") == b"first\n"
    assert b"cut off" in cut.stderr
    none = run("code?", "--extract", MOCK_SAYS="There is none.")
    assert (none.returncode, none.stdout) == (1, b"")
    assert none.stderr.decode().splitlines() == ["There is none.", "llmrun: error: the answer above has no code block"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("no code", None),
        ("inline ```code``` only\n```not``` a fence", None),
        ("```\n```", ""),
        ("```\na\n```", "a\n"),
        ("````\n```\na\n```\n````", "```\na\n```\n"),
        ("```\na\n~~~\nb\n```", "a\n~~~\nb\n"),
        ("1. do\n    ```sh\n    ls\n     -l\n  x\n    ```\n", "ls\n -l\nx\n"),
        ("```\r\na\r\n```\r\n", "a\r\n"),
        ("```\na\n``` b\n```", "a\n``` b\n"),
        ("```\nopen\n", "open\n"),
        ("```\nopen", "open\n"),
    ],
)
def test_code_blocks(text: str, code: str | None) -> None:
    block = last_code_block(text)
    assert (block.code if block else None) == code


@given(st.lists(st.text(st.characters(exclude_characters="\n\r`", exclude_categories=["Cs"])), min_size=1))
def test_any_code_comes_back_from_its_fence(lines: list[str]) -> None:
    code = "".join(f"{line}\n" for line in lines)
    block = last_code_block(f"text\n```\nother\n```\n```lang\n{code}```\nmore")
    assert block is not None
    assert (block.code, block.is_closed) == (code, True)


@posix
@pytest.mark.parametrize("options", [(), ("--session", "kept"), ("--json", "--session", "kept")])
def test_ctrl_c_keeps_what_there_is(options: tuple[str, ...]) -> None:
    said = "abcdefghij" * 20
    with start("hello", *options, MOCK_SAYS=said, MOCK_SLOW="0.02") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        if "--json" in options:
            time.sleep(2)
            first = b""
        else:
            first = process.stdout.read(15)
        process.send_signal(signal.SIGINT)
        text = (first + process.stdout.read()).decode()
        assert process.stderr.read() == b""
    assert process.returncode == -signal.SIGINT
    if "--json" in options:
        result = json.loads(text)
        assert result["finish_reason"] == "cancelled"
        text = result["answer"] + "\n"
    assert text.endswith("\n")
    assert said.startswith(text[:-1])
    if options:
        store = SessionStore()
        assert store.messages(store.find("kept").id)[-1] == {"role": "assistant", "content": text[:-1]}
        store.close()


@posix
def test_a_script_ends_at_ctrl_c() -> None:
    """A shell that gets Ctrl-C goes on with its loop, unless the program that it waits for was ended by it."""
    script = 'for i in 1 2 3; do "$@"; done; echo went on'
    command = ["bash", "-c", script, "bash", *MOCK, "run", "m.gguf", "hello"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, env=os.environ | {"MOCK_SLOW": "0.1"}, start_new_session=True
    ) as process:
        assert process.stdout is not None
        process.stdout.read(3)
        os.killpg(process.pid, signal.SIGINT)
        assert b"went on" not in process.stdout.read()
    assert process.returncode == -signal.SIGINT


@posix
def test_a_background_job_that_ignores_ctrl_c_goes_on_ignoring_it() -> None:
    script = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-c", script, *MOCK, "run", "m.gguf", "hello"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"MOCK_SLOW": "0.02"}) as process:
        assert process.stdout is not None
        first = process.stdout.read(3)
        process.send_signal(signal.SIGINT)
        assert first + process.stdout.read() == b"You said: hello\n"
    assert process.returncode == 0


@posix
def test_a_reader_that_leaves_ends_the_answer_and_a_session_keeps_it() -> None:
    with start("hello", "--session", "kept", MOCK_SAYS="abcdefghij" * 20, MOCK_SLOW="0.01") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == -signal.SIGPIPE
    store = SessionStore()
    _, answer = store.messages(store.find("kept").id)
    store.close()
    assert answer["content"].startswith("abcdefghij")
    assert len(answer["content"]) < 200


def test_a_plain_run_imports_no_database() -> None:
    code = (
        f"import runpy, sys\nsys.argv = ['x', 'run', 'm.gguf', 'hi']\n"
        f"try:\n    runpy.run_path({MOCK[1]!r}, run_name='__main__')\nexcept SystemExit:\n    pass\n"
        "print({name.split('.')[0] for name in sys.modules} & {'sqlite3', 'rich', 'prompt_toolkit'})"
    )
    done = subprocess.run([sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, check=True,
                          env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)})  # fmt: skip
    assert done.stdout.decode().splitlines()[-1] == "set()"
