"""The chat in a real terminal, with a person typing and looking at the screen."""

import base64
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
if sys.platform != "win32":
    from person import ALT_ENTER, CTRL_C, CTRL_D, CTRL_G, CTRL_R, ECHO, TAB, Person

Start = Callable[..., "Person"]


@pytest.fixture
def chat(tmp_path: Path) -> Iterator[Start]:
    """Start a chat: chat("--option", NAME="value"); its home is the same for all of a test."""
    people: list[Person] = []
    (tmp_path / "echo.gguf").write_bytes(b"GGUF")

    def start(*options: str, columns: int = 80, rows: int = 24, **env: str) -> Person:
        env = {"LLMRUN_HOME": str(tmp_path / "home")} | env
        people.append(Person([*ECHO, "chat", str(tmp_path / "echo.gguf"), *options], env, columns, rows))
        people[-1].wait_for_prompt()
        return people[-1]

    yield start
    for person in people:
        person.close()


def editor(tmp_path: Path, text: str) -> str:
    """An editor that writes a text."""
    path = tmp_path / "editor"
    path.write_text(f"#!/bin/sh\nprintf '%s' '{text}' > \"$1\"\n")
    path.chmod(0o755)
    return str(path)


def test_turns_the_status_line_and_leaving(chat: Start) -> None:
    person = chat()
    person.wait_for("░░░░░░░░░░ 0 of 20,000 tokens")
    person.say("hello", "[None|0] hello")
    person.say("again", "[None|2] again")
    person.wait_for("█░░░░░░░░░ 76 of 20,000 tokens · ")
    person.wait_for("tok/s")
    person.type(CTRL_D)
    assert person.leave() == 0
    assert "-c goes on with it" in person.text


def test_help_shows_every_command(chat: Start) -> None:
    from llmrun.cli.slash_commands import COMMANDS

    person = chat(rows=60)
    person.say("/help", "Ctrl-C")
    for name, command in COMMANDS.items():
        assert f"\n{name} " in person.text
        assert " ".join(command.help.split()[:3]) in person.text
    person.say("/halp", "did you mean /help?")
    person.say("/zzzzzz", "/zzzzzz is not a command; /help shows them")
    person.say("/usr/bin is a folder", "[None|0] /usr/bin is a folder")


def test_system_set_and_show(chat: Start, tmp_path: Path) -> None:
    person = chat("--system", "be brief", rows=60)
    person.say("one", "[be brief|0] one")
    person.say("/system be long", "instructions: be long")
    person.say("two", "[be long|2] two")
    person.say("/show system", "instructions: be long")
    person.say("/system off", "there are no instructions")
    person.say("three", "[None|4] three")
    person.say("/set temperature 0.5", "temperature is 0.5")
    person.say("/set top-k 7", "top_k is 7")
    person.say("/set", "penalty_last_n")
    assert "temperature         0.5" in person.text
    assert "top_k               7" in person.text
    person.say("/set temprature 1", "did you mean temperature?")
    person.say("/set temperature hot", "error: temperature must be a number")
    person.say("/set max_tokens 3", "max_tokens is 3")
    person.say("abcdefgh", "ends here because of max_tokens")
    person.say("/set theme light", "theme is light")
    person.say("/show", "shift when it is full")
    person.say("/show template", "{{ a template }}")
    person.say("/show nothing", "error: /show nothing is not known")


def test_retry_edit_and_undo(chat: Start, tmp_path: Path) -> None:
    person = chat(EDITOR=editor(tmp_path, "from the editor"), rows=60)
    person.say("/retry", "error: there is no message to answer again yet")
    person.say("/undo", "error: there is nothing to take back")
    person.say("one", "[None|0] one")
    person.say("two", "[None|2] two")
    person.say("/retry", "/retry")
    person.wait(lambda: person.text.count("[None|2] two") == 2, "the answer again")
    person.say("/edit three", "[None|2] three")
    person.say("/edit", "[None|2] from the editor")
    person.say("/undo", 'taken back: "from the editor"')
    person.say("four", "[None|2] four")
    person.say("/undo", 'taken back: "four"')
    person.say("/undo", 'taken back: "one"')
    person.say("five", "[None|0] five")


def test_sessions(chat: Start) -> None:
    person = chat(rows=60)
    person.say("about apples", "[None|0] about apples")
    person.say("/save fruit", "this conversation is called fruit")
    person.say("/clear", "the one before is kept as fruit")
    person.say("about pears", "[None|0] about pears")
    person.say("/sessions", "fruit ")
    assert "about apples" in person.text.split("/sessions")[1]
    assert "about pears" in person.text.split("/sessions")[1]
    person.say("/sessions pears", "* ")
    assert "fruit" not in person.text.split("/sessions pears")[1]
    person.say("/load fruit", "going on with fruit: 2 messages")
    person.say("more", "[None|2] more")
    person.say("/load nothing", "error: there is no session 'nothing'")
    person.type("/quit\r")
    assert person.leave() == 0
    assert "kept as fruit" in person.text

    again = chat("-c")
    assert ">>> more" in again.text
    again.say("and", "[None|4] and")
    again.type("/bye\r")
    assert again.leave() == 0
    named = chat("--session", "fruit")
    named.say("end", "[None|6] end")


def test_model(chat: Start, tmp_path: Path) -> None:
    person = chat(rows=40)
    other = tmp_path / "other.gguf"
    other.write_bytes(b"GGUF")
    person.say("one", "[None|0] one")
    person.say(f"/model {other}", "the model is")
    person.say("two", "[None|2] two")
    person.say(f"/model {tmp_path}/missing.gguf", "error: ")
    person.say("three", "[None|4] three")


def test_file(chat: Start, tmp_path: Path) -> None:
    person = chat(rows=60)
    (tmp_path / "notes.py").write_text("x = 1\n")
    person.say(f"/file {tmp_path}/notes.py", "notes.py, 6 tokens, goes with your next message")
    person.say("what is it?", "what is it?")
    assert "─── py ───" in person.text
    assert "x = 1" in person.text
    person.say("and now", "[None|2] and now")
    person.say(f"/file {tmp_path}/none", "none cannot be read")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    person.say(f"/file {tmp_path}/binary", "is not text in UTF-8")


def test_copy(chat: Start) -> None:
    person = chat(rows=40)
    person.say("/copy", "error: there is no answer to copy yet")
    person.say("say first\\n```py\\nx = 1\\n```", "x = 1\n───")
    person.say("/copy", "handed to the terminal's clipboard")
    assert base64.b64encode(b"first\n```py\nx = 1\n```").decode() in person.raw
    person.say("/copy code", "6 characters handed")
    assert base64.b64encode(b"x = 1\n").decode() in person.raw


def test_stats(chat: Start) -> None:
    person = chat()
    person.say("/stats", "statistics are on")
    person.say("one", "first token after")
    person.say("/stats", "statistics are off")


def test_thoughts(chat: Start) -> None:
    person = chat(rows=60)
    said = "say <think>\\nlet me see\\n</think>\\n\\nthe **answer**"
    person.say(said, "│ let me see")
    person.wait_for(" tokens\n\nthe answer")
    assert "thought for 0." in person.text
    assert "italics" in person.screen.style("let me see")
    person.say("/think fold", "thoughts are folded")
    person.say(said, "the answer\n\n>>>")
    assert person.text.count("│ let me see") == 1
    assert person.text.count("thought for") == 2
    person.say("/think", "/think\n│ let me see")
    person.say("/think hide", "thoughts are hidden")
    person.say(said, "hide\nthoughts are hidden\n>>> " + said + "\nthe answer")


@pytest.mark.parametrize("word", ["/quit", "/bye", "/exit"])
def test_words_for_leaving(chat: Start, word: str) -> None:
    person = chat()
    person.type(f"{word}\r")
    assert person.leave() == 0


def test_ctrl_c_stops_the_answer_and_keeps_it(chat: Start) -> None:
    person = chat(ECHO_SLOW="0.01")
    person.type("say " + "and so on " * 100 + "END\r")
    person.wait_for("\nand so on and")
    person.type("typed too early ")
    person.type(CTRL_C)
    person.wait_for("stopped; what was said so far is kept")
    assert "^C" not in person.text
    person.wait_for(">>> ")
    person.type("\x15next\r")
    person.wait_for("[None|2] next")
    person.type("/quit\r")
    assert person.leave() == 0


def test_ctrl_c_at_the_prompt_starts_over(chat: Start) -> None:
    person = chat()
    person.type("not this" + CTRL_C)
    person.wait_for_prompt()
    person.type(CTRL_C)
    person.wait_for("Ctrl-D or /quit leaves")
    person.wait_for_prompt()
    person.say("but this", "[None|0] but this")


def test_several_lines(chat: Start) -> None:
    person = chat()
    person.type('"""one\r')
    person.wait_for("...")
    person.type('two"""\r')
    person.wait_for("[None|0] one\ntwo")
    person.wait_for_prompt()
    person.type(f"three{ALT_ENTER}four\r")
    person.wait_for("[None|2] three\nfour")


def test_history(chat: Start, tmp_path: Path) -> None:
    person = chat()
    person.say("the first of all", "[None|0] the first of all")
    person.type("/quit\r")
    person.leave()
    path = tmp_path / "home" / "chat_history"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = chat()
    again.type(CTRL_R + "first")
    again.wait_for("the first of all")
    again.type("\r\r")
    again.wait_for("[None|0] the first of all")


def test_completion(chat: Start, tmp_path: Path) -> None:
    person = chat()
    person.type("/sess")
    person.wait_for("the conversations on this machine")
    person.type(TAB)
    person.wait_for(">>> /sessions")
    person.type("\x15")
    (tmp_path / "a-long-name.txt").write_text("text")
    person.type(f"/file {tmp_path}/a-lo{TAB}")
    person.wait_for("a-long-name.txt")
    person.type("\x15/set temperat")
    person.wait_for(" temperature")
    person.type(TAB)
    person.wait_for("/set temperature")


def test_the_editor(chat: Start, tmp_path: Path) -> None:
    person = chat(EDITOR=editor(tmp_path, "written there"))
    person.type("here" + CTRL_G)
    person.wait_for(">>> written there")
    person.type("\r")
    person.wait_for("[None|0] written there")
    broken = chat(EDITOR="/nowhere/editor")
    broken.type(CTRL_G)
    broken.wait_for("error: /nowhere/editor cannot be started")


def test_a_long_text_is_pasted_as_one_message(chat: Start) -> None:
    person = chat("--max-tokens", "40", rows=24)
    text = "\n".join(f"line {i} " + "x" * 80 for i in range(112))[:10_000]
    person.paste(text)
    person.wait_for("line 111")
    person.type("\r")
    person.wait_for("[None|0] line 0")
    person.wait_for_prompt()
    person.say("/show", "2 messages")
    assert "10,0" in person.text  # tokens of the context


def test_chinese_and_emoji(chat: Start) -> None:
    person = chat()
    said = "天空是蓝色的，因为阳光中的蓝光比红光更容易被大气散射。" * 3 + "🎉 done"
    person.type(f"say {said}\r")
    person.wait_for("done\n\n>>>")
    answer = person.text.split(said[-10:].split("🎉", maxsplit=1)[0])[-1]
    assert "🎉 done" in answer
    assert "\ufffd" not in person.text
    rows = [line for line in person.text.split("\n") if line.startswith("天空")]
    assert rows
    assert "".join(person.text.split()).count("".join(said.split())) == 2


def test_markdown_is_rendered_as_it_comes(chat: Start) -> None:
    person = chat(ECHO_SLOW="0.002", rows=40)
    person.say("say # Title\\n\\nSome **bold** text\\n\\n1. one\\n2. two\\n\\n```python\\nx = 'a'\\n```", "x = 'a'\n──")
    assert "\nTitle\n\nSome bold text\n\n1. one\n2. two\n\n─── python ──" in person.text
    assert "bold" in person.screen.style("bold")
    assert person.screen.style("'a'") != person.screen.style("Some")
    assert person.raw.count("Title") < 12  # the line that was typed is drawn as it grows; the heading once


@pytest.mark.parametrize(("before", "after"), [(80, 50), (50, 80)])
def test_resize_while_streaming(chat: Start, before: int, after: int) -> None:
    person = chat(columns=before, rows=30, ECHO_SLOW="0.003")
    words = [f"w{i}" for i in range(150)]
    person.type('"""say\r')
    person.paste(" ".join(words) + '"""')
    person.wait_for("w149")
    person.type("\r")
    person.wait_for("w40 w41")
    person.wait(lambda: person.screen.screen.display[person.screen.screen.cursor.y].strip() != "", "rows")
    person.resize(after, 30)
    person.wait_for("w148")
    person.wait_for_prompt()
    answer = person.text[person.text.rindex('w149"""') + 8 :] if 'w149"""' in person.text else person.text
    for word in words[100:]:
        assert answer.split().count(word) == 1, person.text


def test_no_color(chat: Start) -> None:
    person = chat(NO_COLOR="1", LLMRUN_THEME="")
    person.say("say **bold** `code`", "bold code\n")
    assert "38;5" not in person.raw
    assert "bold" in person.screen.style("bold code")


def test_a_dumb_terminal_gets_plain_text(chat: Start) -> None:
    person = chat(TERM="dumb")
    person.say("say **bold** `code`", "\n**bold** `code`")
    assert "\x1b" not in person.raw[person.raw.index("say") :]


def test_narrow_and_low(chat: Start) -> None:
    person = chat(columns=24, rows=8)
    person.type("say - " + "word " * 60 + "END\r")
    person.wait_for("END\n\n>>>")
    assert "• word word word word\n  word" in person.text
    assert all(len(line) <= 24 for line in person.text.split("\n"))


def test_a_full_context_is_announced(chat: Start) -> None:
    person = chat(ECHO_CTX="400", rows=60)
    for i in range(6):
        person.say(f"message number {i} " + "x" * 30, f"] message number {i}")
    assert "the context is full: " in person.text
    assert "they stay in the session on disk" in " ".join(person.text.split())
    person.say("/show", "out of context  ")
    error = chat("--overflow", "error", ECHO_CTX="200")
    error.say("x" * 200, "error: the prompt has")


def test_a_base_model_says_so(chat: Start) -> None:
    person = chat(ECHO_BASE="1")
    assert "base model without a chat template" in person.text
    person.say("/system x", "error: without a chat template")


def test_without_a_terminal_standard_input_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "echo.gguf").write_bytes(b"GGUF")
    env = os.environ | {"LLMRUN_HOME": str(tmp_path / "home")}
    command = [*ECHO, "chat", str(tmp_path / "echo.gguf")]

    def run(text: str, *options: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([*command, *options], input=text, capture_output=True, text=True, env=env, check=False)

    assert run("**one**\ntwo\n").stdout == "[None|0] **one**\ntwo\n"
    assert run("three", "-c").stdout == "[None|2] three\n"
    nothing = run("\n")
    assert nothing.returncode == 2
    assert "no message on standard input" in nothing.stderr


def test_the_theme_follows_the_background_of_the_terminal(chat: Start) -> None:
    for background, color in (("rgb:ffff/ffff/eeee", "38;5;130"), ("rgb:0000/0000/0000", "38;5;216")):
        person = chat(LLMRUN_THEME="", BACKGROUND=background)
        person.say("say `code`", "\ncode\n")
        assert color in person.raw


def test_a_real_model(smollm2_path: Path, tmp_path: Path) -> None:
    env = {"LLMRUN_HOME": str(tmp_path / "home")}
    arguments = [sys.executable, "-m", "llmrun.cli.app"]
    arguments = [sys.executable, "-c", "from llmrun.cli.app import main; main()", "chat", str(smollm2_path)]
    person = Person([*arguments, "--temp", "0", "--max-tokens", "60"], env)
    try:
        person.wait_for_prompt()
        person.say("Name three colours as a list. Use an emoji.", "")
        person.wait_for(" tok/s")
        person.say("/retry", "/retry")
        person.type("/quit\r")
        assert person.leave() == 0
        again = Person([*arguments, "-c"], env)
        again.wait_for_prompt()
        assert "Name three colours" in again.text
        again.close()
    finally:
        person.close()
