"""When the disk is full nothing that was said is lost, and everything is said that has to be."""

import contextlib
import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from recorded_chats import check_memory, open_session, read

from llmrun.quant_formats.errors import DiskFull, LlmrunError, SessionError
from llmrun.runner import kv_store
from llmrun.runner.session import Session
from llmrun.runner.session_db import SessionDB
from llmrun.runner.session_store import SessionStore

LONG = "a question of some length, " * 12


def operations(session: Session) -> Iterator[Callable[[], object]]:
    """Go through a conversation; each is one thing that the user does."""
    chat = session.chat
    yield lambda: read(chat.send("one"))
    yield lambda: read(chat.send(LONG))
    yield lambda: read(chat.retry())
    yield lambda: read(chat.edit("two"))
    yield lambda: read(chat.send("three"))
    yield chat.undo
    yield lambda: chat.set_system("Be long.")
    yield chat.clear
    yield lambda: read(chat.send("four"))


def in_use(store: SessionStore, session: str) -> list[dict[str, str]]:
    return [one.message.plain for one in store.stored_messages(session) if one.place != "cleared"]


@pytest.mark.parametrize("n", range(1, 50, 2))
def test_messages_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    execute, n_left, me = SessionDB.execute, n, threading.current_thread()

    def limited(db: SessionDB, statement: str, *values: object) -> Any:
        nonlocal n_left
        if threading.current_thread() is me:  # the thread that writes keys and values has a test of its own
            n_left -= 1
            if n_left == 0:
                raise DiskFull("the disk is full")
        return execute(db, statement, *values)

    with open_session(SessionStore(tmp_path)) as session:
        reader, name = SessionStore(tmp_path), session.info.id
        monkeypatch.setattr(SessionDB, "execute", limited)
        for operation in operations(session):
            before, on_disk = session.chat.messages, in_use(reader, name)
            try:
                operation()
            except DiskFull:
                now = session.chat.messages
                if now == before:  # refused
                    assert in_use(reader, name) == on_disk
                    operation()
                else:  # the answer had ended, and stays in memory
                    assert now[-1]["role"] == "assistant"
                    assert in_use(reader, name) in (on_disk, now[:-1])
            check_memory(session)
        assert n_left <= 0
        assert in_use(reader, name) == session.chat.messages
    with open_session(reader) as again:
        assert again.chat.messages == in_use(reader, name)


def test_a_database_that_cannot_grow(tmp_path: Path) -> None:
    """SQLite's own error, as it comes from a disk without room."""
    with open_session(SessionStore(tmp_path)) as session:
        db = session._store.db
        read(session.send("one"))
        before = session.chat.messages
        ((pages,),) = db.rows("PRAGMA page_count")
        db.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(DiskFull, match="make room") as caught:
            session.send("x" * 3000 + "y" * 900)
        assert caught.value.exit_code == 12
        assert session.chat.messages == before == in_use(SessionStore(tmp_path), session.info.id)
        db.execute("PRAGMA max_page_count = 1000000")
        read(session.send("two"))
        assert len(in_use(SessionStore(tmp_path), session.info.id)) == 4


@pytest.mark.parametrize("n", range(1, 26, 3))
def test_keys_and_values_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    n_left = n

    def fail(*arguments: object) -> None:
        nonlocal n_left
        n_left -= 1
        if n_left <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    real_open, real_replace = open, os.replace

    class Out:
        def __init__(self, *arguments: Any) -> None:
            self.file = real_open(*arguments)

        def __enter__(self) -> "Out":
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, data: bytes) -> int:
            self.file.write(data[:100])
            fail()
            return self.file.write(data[100:]) + 100

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    def replace(*arguments: Any) -> None:
        fail()
        real_replace(*arguments)

    notices: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(kv_store, "open", Out, raising=False)
        patch.setattr(kv_store.os, "replace", replace)
        with open_session(SessionStore(tmp_path), notify=notices.append) as session:
            expected = [read(session.send(text)) for text in (LONG, LONG, "two")]
            ids = session.chat.context_ids
    assert len(notices) == 1
    assert "No space left on device" in notices[0]
    assert "messages are" in notices[0]
    assert not list(tmp_path.rglob("*.part"))
    assert len(expected) == 3
    notices = []
    with open_session(SessionStore(tmp_path), notify=notices.append) as session:
        assert session.chat.context_ids == ids
        assert "not on disk" in notices[0] or "is missing" in notices[0]
        check_memory(session)
        read(session.send("go on"))
    with open_session(SessionStore(tmp_path)) as session:
        assert len(session.chat.table.tokens) == session.chat.n_tokens - 1


LIMITED = """
import resource, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from recorded_chats import open_session, read
from llmrun.quant_formats.errors import SessionError
from llmrun.runner.session_store import SessionStore
notices = []
with open_session(SessionStore(Path(sys.argv[1])), notify=notices.append) as session:
    read(session.send("one"))
    session.flush()
    largest = max(path.stat().st_size for path in Path(sys.argv[1]).rglob("*") if path.is_file())
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest + int(sys.argv[3]), resource.RLIM_INFINITY))
    n = 0
    for n in range(200):
        before = session.chat.messages
        try:
            read(session.send(f"{n} " + "of many words " * 20))
        except SessionError as error:
            print(error)
            break
        session.chat.overflow = "window"
    else:
        raise SystemExit("it never became full")
    if session.chat.messages != before:
        assert session.chat.messages[:len(before)] == before
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    read(session.send("at last"))
    assert session.chat.messages == SessionStore(Path(sys.argv[1])).messages(session.info.id)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no limits for the size of files")
@pytest.mark.parametrize("more", [100, 5_000, 20_000])
def test_files_that_may_not_grow(tmp_path: Path, more: int) -> None:
    command = [sys.executable, "-c", LIMITED, str(tmp_path), str(Path(__file__).parent), str(more)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "check the disk" in done.stdout or "disk is full" in done.stdout
    with open_session(SessionStore(tmp_path), notify=lambda _: None) as session:
        assert session.chat.messages[-2]["content"] == "at last"


@pytest.mark.skipif("LLMRUN_TEST_SMALL_DISK" not in os.environ, reason="needs a file system of a few MB")
@pytest.mark.parametrize("n_left", [0, 30_000, 120_000])
def test_a_disk_that_is_full(n_left: int) -> None:
    """On a real one: LLMRUN_TEST_SMALL_DISK names an empty folder on a file system of a few MB."""
    folder = Path(os.environ["LLMRUN_TEST_SMALL_DISK"])
    ballast = folder / "ballast"
    notices: list[str] = []
    errors: list[LlmrunError] = []
    store = SessionStore(folder / "sessions")
    with open_session(store, notify=notices.append) as session:
        session.chat.overflow = "window"
        read(session.send("one"))
        _fill(ballast)
        os.truncate(ballast, max(0, ballast.stat().st_size - n_left))
        for n in range(300):
            before = session.chat.messages
            try:
                read(session.send(f"{n} " + LONG))
            except SessionError as error:
                errors.append(error)
                assert session.chat.messages[: len(before)] == before
        assert errors
        assert {type(error) for error in errors} == {DiskFull}
        assert sum("not kept on disk" in text for text in notices) <= 1
        ballast.unlink()
        read(session.send("at last"))
        expected = session.chat.messages
    with open_session(store, notify=notices.append) as session:
        assert session.chat.messages == expected
    store.close()
    shutil.rmtree(folder / "sessions")


def _fill(path: Path) -> None:
    with open(path, "wb", 0) as file:
        for size in (65536, 4096, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size) == size:
                    pass
