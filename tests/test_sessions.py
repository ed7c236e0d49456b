"""Conversations are on disk as they go, and go on as if nothing had come between."""

import subprocess
import sys
from pathlib import Path

import pytest
from recorded_chats import PARAMS, check_memory, engine, open_session, read

from llmrun.quant_formats.errors import SessionBusy, UnknownSession, UsageError
from llmrun.runner.sampler import SamplingParams
from llmrun.runner.session import Session
from llmrun.runner.session_store import SessionStore

LONG = "a question of some length, " * 12


@pytest.fixture
def store(tmp_path: Path) -> SessionStore:
    return SessionStore(tmp_path)


def kv_files(store: SessionStore) -> list[Path]:
    return [path for path in (store.folder / "kv").rglob("*") if path.is_file()]


def test_what_is_said_is_on_disk_at_once(store: SessionStore) -> None:
    with open_session(store) as session:
        generation = session.send("one")
        other = SessionStore(store.folder)
        assert other.messages(session.info.id) == [{"role": "user", "content": "one"}]
        read(generation)
        assert other.messages(session.info.id) == session.chat.messages
        assert session.info.n_tokens == session.chat.n_tokens == len(session.chat.context_ids)


@pytest.mark.parametrize("params", [PARAMS, SamplingParams(seed=5, max_tokens=30)], ids=["greedy", "sampled"])
def test_resuming_computes_nothing_and_answers_the_same(tmp_path: Path, params: SamplingParams) -> None:
    texts = ["one", LONG, "three " * 30, "four"]

    def conversation(folder: Path, restart: bool) -> tuple[list[list[int]], list[int]]:
        store = SessionStore(folder)
        answers, computed = [], []
        session = open_session(store)
        for text in texts:
            if restart:
                session.close()
                n_tokens = session.info.n_tokens if answers else 0
                session = open_session(store)
                assert len(session.chat.table.tokens) == max(0, n_tokens - 1)
                check_memory(session)
            generation = session.send(text, params)
            answers.append(read(generation))
            computed.append(generation.stats.n_prompt - generation.stats.n_cached)
        session.close()
        return answers, computed

    assert conversation(tmp_path / "a", restart=True) == conversation(tmp_path / "b", restart=False)


def test_the_very_ids_are_kept(store: SessionStore) -> None:
    with open_session(store) as session:
        for text in ("x", LONG, "z"):
            read(session.send(text))
        ids = session.chat.context_ids
    with open_session(store) as session:
        assert session.chat.context_ids == ids


def test_every_operation_is_recorded(store: SessionStore) -> None:
    with open_session(store) as session:
        for text in ("one", "two", LONG):
            read(session.send(text))
        assert session.chat.undo() == {"role": "user", "content": LONG}
        read(session.chat.retry(SamplingParams(seed=1, max_tokens=9)))
        read(session.chat.edit("2"))
        session.chat.set_system("Be long.")
        expected, tokens = session.chat.messages, session.chat.context_ids
    assert [message["content"] for message in expected[::2]] == ["one", "2"]
    with open_session(store) as session:
        assert (session.chat.messages, session.chat.system) == (expected, "Be long.")
        assert session.chat.context_ids == tokens
        check_memory(session)
        assert len(session.chat.table.tokens) == len(tokens) - 1


def test_files_are_of_what_is_in_context(store: SessionStore) -> None:
    with open_session(store) as session:
        read(session.send(LONG))
        session.flush()
        n_files = len(kv_files(store))
        assert n_files == -(-(session.chat.n_tokens - 1) // 64)
        read(session.send(LONG))
        session.chat.undo()
        session.flush()
        assert len(kv_files(store)) == n_files
        session.chat.clear()
        session.flush()
        assert kv_files(store) == []


def test_the_answer_before_stays_until_there_is_another(store: SessionStore) -> None:
    with open_session(store) as session:
        read(session.send("one"))
        before = session.chat.messages
        generation = session.chat.retry(SamplingParams(seed=1, max_tokens=9))
        next(generation)
        assert SessionStore(store.folder).messages(session.info.id) == before
        read(generation)
        assert SessionStore(store.folder).messages(session.info.id) == session.chat.messages != before


def test_clearing_keeps_what_was_said_on_record(store: SessionStore) -> None:
    with open_session(store) as session:
        read(session.send("one"))
        session.chat.clear()
        read(session.send("two"))
        now = session.chat.messages
        assert [message["content"] for message in now[::2]] == ["two"]
        assert [m["content"] for m in store.messages(session.info.id) if m["role"] == "user"] == ["one", "two"]
    with open_session(store) as session:
        assert session.chat.messages == now


def test_messages_put_in_place_are_recorded(store: SessionStore) -> None:
    loaded = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "yes?"}]
    with open_session(store) as session:
        read(session.send("one"))
        session.chat.reset([{"role": "system", "content": "Sing."}, *loaded])
    with open_session(store) as session:
        assert (session.chat.messages, session.chat.system) == (loaded, "Sing.")
        generation = session.send("well")
        read(generation)
        assert generation.stats.n_cached == 0


def test_an_answer_without_an_end_is_cut_off_at_closing(store: SessionStore) -> None:
    with open_session(store) as session:
        generation = session.send("one")
        for _ in range(5):
            next(generation)
    assert store.messages(session.info.id)[-1] == {"role": "assistant", "content": generation.text}
    with open_session(store) as session:
        check_memory(session)
        assert len(session.chat.table.tokens) == session.chat.n_tokens - 1


def test_a_message_without_an_answer(store: SessionStore) -> None:
    with open_session(store) as session:
        session.send("one")
        copy = store.folder.parent / "copy"
        copy.mkdir()
        for path in store.folder.glob("sessions.db*"):
            (copy / path.name).write_bytes(path.read_bytes())
    notices: list[str] = []
    with open_session(SessionStore(copy), notify=notices.append) as session:
        assert "no answer" in notices[0]
        assert session.chat.messages == [{"role": "user", "content": "one"}]
        read(session.chat.retry())
        assert [message["role"] for message in session.chat.messages] == ["user", "assistant"]
        read(session.send("two"))
        assert [message["role"] for message in session.chat.messages] == ["user", "assistant"] * 2


def test_saying_something_else_instead(store: SessionStore) -> None:
    """Templates want answers between the messages of the user."""
    with open_session(store) as session:
        session.chat.reset([{"role": "user", "content": "one"}])
        read(session.send("two"))
        assert [message["role"] for message in session.chat.messages] == ["user", "assistant"] * 2
        assert session.chat.messages[1]["content"] == ""


def test_another_model_reads_it_again_and_says_so(store: SessionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_session(store) as session:
        read(session.send(LONG))
    notices: list[str] = []
    monkeypatch.setattr("mock_model.MockModel.fingerprint", lambda self: "other")
    with open_session(store, notify=notices.append) as session:
        assert len(notices) == 1
        assert "another model" in notices[0]
        assert session.chat.table.tokens == session.chat.context_ids == []
        generation = session.send("two")
        read(generation)
        assert generation.stats.n_cached == 0
        session.flush()
        assert {path.parent.name for path in kv_files(store)} == {"other"}
        session.chat.undo()
        read(session.chat.retry())
    with open_session(store) as session:
        check_memory(session)


def test_a_smaller_context_takes_what_it_can(store: SessionStore) -> None:
    with open_session(store) as session:
        for _ in range(4):
            read(session.send(LONG))
    notices: list[str] = []
    with open_session(store, notify=notices.append, n_ctx=512) as session:
        assert "could not be restored" in notices[0]
        session.chat.overflow = "window"
        read(session.send("and?"))
        assert session.chat.n_dropped > 0


def test_sessions_share_files_until_the_last_goes(store: SessionStore) -> None:
    ids = []
    for name in ("a", "b"):
        store.create(name, "mock", "Be brief.")
        with open_session(store, name) as session:
            read(session.send(LONG))
            ids.append(session.info.id)
    files = kv_files(store)
    assert len(files) == -(-(store.find("a").n_tokens - 1) // 64)
    store.remove(ids[0])
    assert kv_files(store) == files
    with open_session(store, "b") as session:
        assert len(session.chat.table.tokens) == session.chat.n_tokens - 1
    store.remove(ids[1])
    assert kv_files(store) == []
    assert store.list() == []


def test_the_least_recently_used_make_room(tmp_path: Path) -> None:
    store = SessionStore(tmp_path, max_kv_bytes=20 * 768)  # blocks of the mock model with their headers
    for name in ("a", "b", "c"):
        store.create(name, "mock", name)
        with open_session(store, name) as session:
            read(session.send(LONG))
    assert [store.disk_bytes(store.find(name).id) > 5000 for name in ("a", "b", "c")] == [False, True, True]
    notices: list[str] = []
    with open_session(store, "a", notify=notices.append) as session:
        assert "not on disk" in notices[0]
        assert session.chat.messages[0]["content"] == LONG


def test_a_session_larger_than_the_limit_is_said(tmp_path: Path) -> None:
    notices: list[str] = []
    store = SessionStore(tmp_path, max_kv_bytes=2000)
    with open_session(store, notify=notices.append) as session:
        for _ in range(3):
            read(session.send(LONG))
            session.flush()
    assert len(notices) == 1
    assert "not kept on disk" in notices[0]


def test_empty_sessions_leave_nothing(store: SessionStore) -> None:
    with open_session(store):
        pass
    store.create("named", "mock")
    with open_session(store, "named"):
        pass
    assert [info.name for info in store.list()] == ["named"]
    assert store.last() is None


def test_blocks_come_back(store: SessionStore) -> None:
    shared = engine()
    for name in ("a", "b"):
        info = store.create(name, "mock")
        with Session.open(shared, store, info, PARAMS) as session:
            for text in ("one", LONG):
                read(session.send(text))
    shared.kv_cache.clear()
    assert shared.kv_cache.n_free == shared.kv_cache.n_blocks
    assert shared.kv_cache.on_shortage == []


def test_a_full_cache_waits_for_the_writer(store: SessionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    from llmrun.runner.kv_store import KVStore

    write = KVStore.write

    def slow(self: KVStore, *arguments: object) -> None:
        time.sleep(0.02)
        write(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(KVStore, "write", slow)
    with open_session(store, n_ctx=512) as session:
        for start in "abcdef":
            read(session.send(start * 350))
            session.chat.undo()
        session.flush()
        assert session._engine.kv_cache.n_available <= 8


HOLDER = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from recorded_chats import open_session, read
from llmrun.runner.session_store import SessionStore
with open_session(SessionStore(Path(sys.argv[1]))) as session:
    read(session.send("one"))
    print(session.info.id, flush=True)
    sys.stdin.readline()
"""


def test_two_processes(store: SessionStore) -> None:
    command = [sys.executable, "-c", HOLDER, str(store.folder), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        session = holder.stdout.readline().strip()
        for attempt in (lambda: open_session(store), lambda: store.remove(session)):
            with pytest.raises(SessionBusy, match=rf"{session} is open in another process \(process id {holder.pid}\)"):
                attempt()
        assert store.messages(session)[0]["content"] == "one"  # reading needs no lock
        store.rename(session, "shared")
        store.create("mine", "mock")
        with open_session(store, "mine") as mine:  # and others go on
            read(mine.send("one"))
        print(file=holder.stdin, flush=True)
        assert holder.wait() == 0
    with open_session(store, "shared") as again:
        assert len(again.chat.table.tokens) == again.chat.n_tokens - 1


def test_one_process_twice(store: SessionStore) -> None:
    with open_session(store) as session:
        read(session.send("one"))
        with pytest.raises(SessionBusy, match="open in this process"):
            open_session(store)
    open_session(store).close()


def test_a_session_removed_meanwhile(store: SessionStore) -> None:
    info = store.create("a", "mock")
    store.remove(info.id)
    with pytest.raises(UnknownSession, match="not there any more"):
        Session.open(engine(), store, info, PARAMS)


def test_without_messages_there_is_nothing_to_change(store: SessionStore) -> None:
    with open_session(store) as session:
        assert session.chat.undo() is None
        for change in (session.chat.retry, lambda: session.chat.edit("x")):
            with pytest.raises(UsageError, match="yet"):
                change()
