"""Nothing that was changed on the disk behind our back goes unnoticed."""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from recorded_chats import check_memory, open_session, read

from llmrun.quant_formats.errors import SessionError
from llmrun.runner.kv_store import HEADER_BYTES, DamagedKV, KVNames, KVStore
from llmrun.runner.session_store import SessionStore

LONG = "a question of some length, " * 12
DATA = np.random.default_rng(0).integers(0, 256, 300, np.uint8)
IDS = list(range(64))


@pytest.fixture
def kv(tmp_path: Path) -> KVStore:
    return KVStore(tmp_path, "fingerprint", len(DATA))


def put(kv: KVStore, name: str, ids: list[int], data: np.ndarray = DATA) -> Path:
    kv.write(name, ids, np.concatenate([np.zeros(HEADER_BYTES, np.uint8), data]), "me")
    return kv.folder / name


def is_noticed(kv: KVStore, name: str) -> bool:
    try:
        data = kv.read(name, IDS)
    except DamagedKV:
        return True
    assert (data == DATA).all()
    return False


def test_any_bit_of_a_file(kv: KVStore) -> None:
    name = KVNames("fingerprint").next_name(0, IDS)
    path = put(kv, name, IDS)
    sound = path.read_bytes()
    assert not is_noticed(kv, name)
    for at in range(len(sound)):
        for bit in (1 << at % 8, 0xFF):
            path.write_bytes(sound[:at] + bytes([sound[at] ^ bit]) + sound[at + 1 :])
            assert is_noticed(kv, name), f"byte {at} was changed"
            assert not path.exists()  # so that a sound one is written again


def test_any_length_of_a_file(kv: KVStore) -> None:
    name = KVNames("fingerprint").next_name(0, IDS)
    path = put(kv, name, IDS)
    sound = path.read_bytes()
    for wrong in [*(sound[:n] for n in range(len(sound))), sound + b"\0", sound * 2, b"\0" * len(sound)]:
        path.write_bytes(wrong)
        assert is_noticed(kv, name), f"the file had {len(wrong)} bytes"


def test_random_damage(kv: KVStore) -> None:
    name = KVNames("fingerprint").next_name(0, IDS)
    path = put(kv, name, IDS)
    sound = path.read_bytes()
    rng = random.Random(1)
    for _ in range(500):
        start, n = rng.randrange(len(sound)), rng.randint(1, 300)
        wrong = sound[:start] + rng.randbytes(min(n, len(sound) - start)) + sound[start + n :]
        path.write_bytes(wrong)
        assert is_noticed(kv, name) == (wrong != sound)


def test_the_file_of_another_block(kv: KVStore) -> None:
    names = KVNames("fingerprint")
    first, second = names.next_name(0, IDS), names.next_name(0, IDS[:9])
    shutil.copy(put(kv, second, IDS[:9]), put(kv, first, IDS))
    assert is_noticed(kv, first)
    assert is_noticed(kv, KVNames("another").next_name(0, IDS))


def test_names_depend_on_all_that_came_before() -> None:
    rng = random.Random(2)
    names, seen = KVNames("a"), {}
    texts = [[rng.randrange(9) for _ in range(200)] for _ in range(5)]
    texts += [[*texts[0][:130], *texts[1][130:]], texts[0][:70], texts[0]]
    for ids in texts:
        names.follow(ids)
        fresh = KVNames("a")
        fresh.follow(ids)
        assert names.names == fresh.names
        for i, name in enumerate(names.names):
            assert seen.setdefault(name, ids[: 64 * (i + 1)]) == ids[: 64 * (i + 1)]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one session, and what it says in the next turn."""
    folder = tmp_path_factory.mktemp("recorded")
    store = SessionStore(folder)
    with open_session(store) as session:
        for text in ("one", LONG, "three"):
            read(session.send(text))
    store.close()
    return folder


@pytest.fixture
def copies(recorded: Path, tmp_path: Path) -> Iterator[Path]:
    return (Path(shutil.copytree(recorded, tmp_path / str(i))) for i in range(10_000))


def test_a_damaged_block_is_computed_again(recorded: Path, copies: Iterator[Path]) -> None:
    with open_session(SessionStore(next(copies))) as session:
        expected, messages = read(session.send("and?")), session.chat.messages
    rng = random.Random(3)
    for i in range(40):
        folder = next(copies)
        path = rng.choice(sorted((folder / "kv").rglob("*/*")))
        damaged = bytearray(path.read_bytes())
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged) if i % 4 else path.unlink()
        notices: list[str] = []
        store = SessionStore(folder)
        with open_session(store, notify=notices.append) as session:
            is_last = len(session.chat.context_ids) - len(session.chat.table.tokens) < 64
            assert len(notices) == 1 or (is_last and i % 4 == 0)
            check_memory(session)
            assert read(session.send("and?")) == expected
            assert session.chat.messages == messages
        with open_session(store) as session:  # all of it is there again
            assert len(session.chat.table.tokens) == session.chat.n_tokens - 1


def test_a_damaged_database(recorded: Path, copies: Iterator[Path]) -> None:
    """Any byte of it: either it does not open, or it says so, or nothing is different."""
    folder = next(copies)

    def look(notices: list[str]) -> object:
        store = SessionStore(folder)
        try:
            info = store.list()[0]
            with open_session(store, notify=notices.append) as session:
                return session.chat.messages, session.chat.context_ids, info.system, info.name, dict(info.settings)
        finally:
            store.close()

    notices: list[str] = []
    expected = look(notices)
    assert notices == []
    assert not (folder / "sessions.db-wal").exists()
    sound = (folder / "sessions.db").read_bytes()
    rng = random.Random(4)
    used = [at for at, byte in enumerate(sound) if byte]
    n_noticed = 0
    for _ in range(300):
        damaged = bytearray(sound)
        damaged[rng.choice(used)] ^= rng.choice((0xFF, 1 << rng.randrange(8)))
        (folder / "sessions.db").write_bytes(damaged)
        notices = []
        try:
            same = look(notices) == expected
        except (SessionError, IndexError):  # not readable, or the session is not in the list any more
            n_noticed += 1
            continue
        assert same or notices, "other messages, and not a word"
        n_noticed += bool(notices)
        for path in folder.glob("sessions.db*"):
            path.unlink()
    assert n_noticed > 100
