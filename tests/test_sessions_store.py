"""Finding, naming, searching and exporting sessions; and what is said of a file that cannot be used."""

import json
import re
import sqlite3
from pathlib import Path

import pytest
from recorded_chats import open_session, read

from llmrun.quant_formats.errors import SessionError, SessionNameTaken, UnknownSession, UsageError
from llmrun.runner.session_store import SessionStore, sessions_folder


@pytest.fixture
def store(tmp_path: Path) -> SessionStore:
    return SessionStore(tmp_path / "sessions")


def say(store: SessionStore, session: str, text: str) -> None:
    with open_session(store, session) as opened:
        read(opened.send(text))


def test_folder_is_beside_the_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LLMRUN_HOME", str(tmp_path))
    assert sessions_folder() == tmp_path / "sessions"
    SessionStore()
    assert (tmp_path / "sessions" / "sessions.db").exists()


def test_a_session_is_what_it_was_made_with(store: SessionStore) -> None:
    settings = {"temperature": 0.5, "stop": ["é"], "seed": None}
    made = store.create("tea", "smollm2", "Be brief.", settings)
    assert store.find("tea") == store.info(made.id) == made
    assert (made.name, made.model, made.system, made.settings) == ("tea", "smollm2", "Be brief.", settings)
    assert (made.title, made.n_messages, made.n_tokens, made.fingerprint) == ("", 0, 0, "")
    assert re.fullmatch("[0-9a-hjkmnp-tv-z]{8}", made.id)
    assert made.created == made.updated
    assert made.created.tzinfo is not None
    store.set_model(made.id, "gemma3")
    store.set_settings(made.id, {"seed": 3})
    now = store.find("tea")
    assert (now.model, now.settings) == ("gemma3", {"seed": 3})


def test_finding(store: SessionStore) -> None:
    tea, coffee = store.create("tea time", "m"), store.create("coffee", "m")
    with pytest.raises(UnknownSession, match=r"`llmrun sessions list` shows them"):
        store.find("water")
    assert store.find("tea") == store.find(tea.id) == store.find(tea.id[:7]) == tea
    with pytest.raises(UnknownSession, match="did you mean coffee"):
        store.find("cofee")
    store.create("coffee break", "m")
    assert store.find("coffee") == coffee  # the whole name wins
    with pytest.raises(UnknownSession, match=r"fits 2 sessions: coffee break, coffee; write more"):
        store.find("cof")
    with pytest.raises(UnknownSession):
        store.find("")


def test_names(store: SessionStore) -> None:
    tea = store.create("tea", "m")
    with pytest.raises(SessionNameTaken, match="'tea' already"):
        store.create("tea", "m")
    coffee = store.create("coffee", "m")
    with pytest.raises(SessionNameTaken):
        store.rename(coffee.id, "tea")
    store.rename(tea.id, "茶 ☕")
    store.rename(coffee.id, "tea")
    assert store.find("茶").id == tea.id
    store.rename(coffee.id, None)
    assert store.info(coffee.id).name is None
    for bad in ("", " x", "-x", "a\nb", "x" * 101):
        with pytest.raises(UsageError, match="cannot be the name"):
            store.create(bad, "m")


def test_title_is_how_it_began(store: SessionStore) -> None:
    store.create("a", "mock")
    say(store, "a", "  Why is\n\nthe sky blue, " + "and the sea " * 10)
    say(store, "a", "Really?")
    assert store.find("a").title == "Why is the sky blue, and the sea and the sea and the sea…"
    assert store.find("a").n_messages == 4


def test_the_last_one_is_the_one_used_last(store: SessionStore) -> None:
    for name in ("a", "b"):
        store.create(name, "mock")
        say(store, name, "hello")
    store.create("silent", "mock")
    last = store.last()
    assert last is not None
    assert last.name == "b"
    say(store, "a", "again")
    assert [info.name for info in store.list()] == ["a", "silent", "b"]


def test_search(store: SessionStore) -> None:
    for name, text in (("one", "Der Käse schmeckt"), ("two", "今天天气很好 100%"), ("Cheese", "nothing_here")):
        store.create(name, "mock")
        say(store, name, text)

    def found(words: str) -> set[str | None]:
        return {info.name for info in store.list(words)}

    assert found("KÄSE") == found("schmeck der") == {"one"}
    assert found("天气") == found("0%") == {"two"}
    assert found("chee") == {"Cheese"}
    assert found("cheese nothing") == {"Cheese"}
    assert found("_") == {"Cheese"}
    assert found("absent") == set()
    assert found("  ") == {"one", "two", "Cheese"}


def test_export(store: SessionStore) -> None:
    info = store.create("tea", "mock", "Be brief.")
    say(store, "tea", "Why?")
    answer = store.messages(info.id)[1]["content"]
    markdown = store.export(info.id, "markdown")
    assert markdown.startswith("# tea\n\n*mock, ")
    assert markdown.endswith(f"## System\n\nBe brief.\n\n## You\n\nWhy?\n\n## Model\n\n{answer}\n")
    assert store.export(info.id, "text") == f"System: Be brief.\n\nYou: Why?\n\nModel: {answer}\n"
    value = json.loads(store.export(info.id, "json"))
    assert value["messages"][0] == {"role": "user", "content": "Why?", "in_context": True}
    with pytest.raises(UsageError, match="markdown, json, text"):
        store.export(info.id, "pdf")  # type: ignore[arg-type]


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "sessions.db").write_bytes(b"not a database, but long enough to look at" * 100)
    with pytest.raises(SessionError, match="is damaged"):
        SessionStore(tmp_path)


def test_a_newer_version(tmp_path: Path) -> None:
    SessionStore(tmp_path).close()
    connection = sqlite3.connect(tmp_path / "sessions.db")
    connection.execute("PRAGMA user_version = 9")
    connection.close()
    with pytest.raises(SessionError, match="version 9"):
        SessionStore(tmp_path)


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SessionError, match="cannot be made"):
        SessionStore(tmp_path / "file" / "sessions")


def test_many_processes_make_the_file_at_once(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = "import sys; from pathlib import Path; from llmrun.runner.session_store import SessionStore as S\n"
    code += "for i in range(20): S(Path(sys.argv[1])).create(None, 'm')"
    running = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert SessionStore(tmp_path).db.rows("SELECT count(*) FROM sessions") == [(60,)]
