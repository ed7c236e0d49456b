"""`llmrun sessions`: finding, showing, renaming, removing and exporting what is stored."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from llmrun.runner.chat_message import ChatMessage
from llmrun.runner.session_store import SessionStore


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SessionStore:
    """Three conversations: two about trips, of which one has a name, and one about code."""
    monkeypatch.setenv("LLMRUN_HOME", str(tmp_path))
    store = SessionStore()
    talks = [
        ("alps", "A trip to the Alps?", "Yes, in July ☀."),
        (None, "A trip to the sea?", "In \x1b[31mAugust."),
        ("code", "Sort this.", "```\nls | sort\n```"),
    ]
    for name, question, answer in talks:
        info = store.create(name, "smollm2", "Be brief." if name else None, {"top_k": 3})
        said = [ChatMessage("user", question), ChatMessage("assistant", answer)]
        store.save(info.id, 0, [], [(message, "context") for message in said], info.system, 20, "")
    return store


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "from llmrun.cli.app import main; main()"
    command = [sys.executable, "-c", code, "sessions", *arguments]
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=False)


def error_of(*arguments: str) -> tuple[int, str]:
    done = call(*arguments)
    assert done.stdout == ""
    assert done.stderr.startswith("llmrun: error: ")
    assert done.stderr.count("\n") == 1
    return done.returncode, done.stderr


def test_list_and_search(store: SessionStore) -> None:
    nameless = store.list("sea")[0].id
    rows = call("list").stdout.splitlines()
    assert [row.split()[0] for row in rows] == ["code", nameless, "alps"]
    assert rows[2].split("  ")[-1] == "A trip to the Alps?"
    assert "2 messages" in rows[2]
    assert [row.split()[0] for row in call("list", "--search", "TRIP july").stdout.splitlines()] == ["alps"]
    found = json.loads(call("list", "--search", "sort", "--json").stdout)
    assert [(row["name"], row["title"], row["n_messages"]) for row in found] == [("code", "Sort this.", 2)]
    assert found[0]["disk_bytes"] > 0
    nothing = call("list", "--search", "moon")
    assert (nothing.stdout, nothing.stderr) == ("", "llmrun: no conversation has all of 'moon' in it\n")


def test_show(store: SessionStore) -> None:
    shown = call("show", "alp").stdout
    for words in (
        "smollm2",
        "top_k 3",
        "20 tokens in use",
        "System: Be brief.",
        "You: A trip to",
        "Model: Yes, in July ☀.",
    ):
        assert words in shown
    assert "\x1b" not in call("show", store.list("sea")[0].id[:5]).stdout  # nothing in it steers the terminal
    facts = json.loads(call("show", "alps", "--json").stdout)
    assert facts["messages"][1] == {"role": "assistant", "content": "Yes, in July ☀."}


def test_rename(store: SessionStore) -> None:
    nameless = store.list("sea")[0].id
    assert call("rename", nameless, "sea trip").returncode == 0
    assert store.find("sea trip").id == nameless
    code, message = error_of("rename", "alps", "sea trip")
    assert code == 11
    assert "already" in message
    assert call("rename", "sea trip", "").returncode == 0
    assert store.info(nameless).name is None


def test_rm_removes_all_or_none(store: SessionStore) -> None:
    assert error_of("rm", "alps", "none")[0] == 11
    assert len(store.list()) == 3
    done = call("rm", "alps", "code")
    assert done.returncode == 0
    assert done.stderr.splitlines() == ["llmrun: removed alps: A trip to the Alps?", "llmrun: removed code: Sort this."]
    assert [info.title for info in store.list()] == ["A trip to the sea?"]


def test_what_is_open_is_not_removed(store: SessionStore) -> None:
    lock = store.lock(store.find("alps").id)
    assert error_of("rm", "alps")[0] == 11
    lock.release()
    assert call("rm", "alps").returncode == 0


def test_export() -> None:
    assert call("export", "code").stdout.startswith("# code\n")
    assert json.loads(call("export", "code", "--format", "json").stdout)["messages"][0]["content"] == "Sort this."
    assert "You: Sort this." in call("export", "code", "--format", "text").stdout
    assert error_of("export", "code", "--format", "pdf")[0] == 2
    assert error_of("export", "nothing")[0] == 11


def test_an_empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMRUN_HOME", str(tmp_path / "other"))
    done = call("list")
    assert (done.returncode, done.stdout) == (0, "")
    assert call("list", "--json").stdout == "[]\n"
