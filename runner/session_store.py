"""The conversations on this machine: what was said, and under which name."""

import builtins
import os
import re
import secrets
import sqlite3
import time
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from llmrun.quant_formats.errors import SessionBusy, SessionError, SessionNameTaken, UnknownSession, UsageError
from llmrun.runner.chat_message import ChatMessage, Message
from llmrun.runner.file_lock import FileLock
from llmrun.runner.session_db import SessionDB
from llmrun.runner.session_info import SessionInfo

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u
ID_LENGTH = 8
TITLE_LENGTH = 60
NAME_LENGTH = 100
MAX_KV_BYTES = 20 << 30

Place = Literal["context", "dropped", "cleared"]
PLACES = get_args(Place)

_INFO = """
SELECT id, name, model, system, settings, created, updated, n_tokens, fingerprint,
    (SELECT count(*) FROM messages WHERE session = id),
    (SELECT substr(content, 1, 400) FROM messages WHERE session = id AND role = 'user' ORDER BY number LIMIT 1)
FROM sessions
"""
_NEWEST_FIRST = " ORDER BY updated DESC, id"
_NOT_EMPTY = "(name IS NOT NULL OR EXISTS (SELECT 1 FROM messages WHERE session = id))"


class StoredMessage(NamedTuple):
    """A message as it lies on the disk."""

    number: int  # its key; a later message has a larger one
    place: Place
    message: ChatMessage
    is_sound: bool  # whether it is what was written


def sessions_folder() -> Path:
    """Where conversations are kept: `sessions`, beside the folder of the pulled models."""
    from llmrun.runner.registry import data_folder

    return data_folder().parent / "sessions"


class SessionStore:
    """Messages and settings of all sessions, in one SQLite file; belongs to the thread that made it.

    Every method either did all of its work or raises: SessionError for a file that cannot be read or written, DiskFull
    where there is no room.
    """

    def __init__(self, folder: Path | None = None, max_kv_bytes: int = MAX_KV_BYTES) -> None:
        """`max_kv_bytes`: what the keys and values of all sessions may take; the least recently used ones go first."""
        self.max_kv_bytes = max_kv_bytes
        self.folder = folder or sessions_folder()
        self._locks = self.folder / "locks"
        try:
            # private: what people ask is theirs
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._locks.mkdir(exist_ok=True)
        except OSError as error:
            raise SessionError(f"{self.folder} cannot be made: {error.strerror or error}") from error
        self.db = SessionDB(self.folder / "sessions.db")

    def create(
        self,
        name: str | None,
        model: str,
        system: str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> SessionInfo:
        """Make a session; raises SessionNameTaken, or UsageError for a name that cannot be one."""
        now = time.time()
        new = "".join(secrets.choice(ALPHABET) for _ in range(ID_LENGTH))
        with _naming(name), self._changing(new):
            self.db.execute(
                "INSERT INTO sessions (id, name, model, system, settings, created, updated) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                *(new, name, model, system, _to_json(settings or {}), now, now),
            )
        return self.info(new)

    def info(self, session: str) -> SessionInfo:
        """The session of an id; raises UnknownSession."""
        rows = self.db.rows(f"{_INFO} WHERE id = ?", session)
        if not rows:
            raise UnknownSession(f"the session {session} is not there any more")
        return _info(rows[0])

    def find(self, text: str) -> SessionInfo:
        """The session of a name or id, or of the only one that begins so; raises UnknownSession."""
        for condition in ("name = ?", "id = ?"):
            if rows := self.db.rows(f"{_INFO} WHERE {condition}", text):
                return _info(rows[0])
        everyone = self.list()
        fitting = [info for info in everyone if text and (info.id.startswith(text) or _starts(info.name, text))]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            labels = ", ".join(info.label for info in fitting[:5]) + (", ..." if len(fitting) > 5 else "")
            raise UnknownSession(f"{text!r} fits {len(fitting)} sessions: {labels}; write more of the name or id")
        near = get_close_matches(text, [name for info in everyone for name in (info.id, info.name) if name], n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else "`llmrun sessions list` shows them"
        raise UnknownSession(f"there is no session {text!r}; {hint}")

    def last(self) -> SessionInfo | None:
        """The session used last, of those in which something was said."""
        rows = self.db.rows(f"{_INFO} WHERE EXISTS (SELECT 1 FROM messages WHERE session = id) {_NEWEST_FIRST} LIMIT 1")
        return _info(rows[0]) if rows else None

    def list(self, search: str | None = None) -> builtins.list[SessionInfo]:
        """All sessions that have a name or a message, newest first.

        With `search`, those in which every word of it occurs: in the name, the title or a message, in upper or lower
        case, also as a part of a longer word.
        """
        found = [_info(row) for row in self.db.rows(f"{_INFO} WHERE {_NOT_EMPTY} {_NEWEST_FIRST}")]
        if not search:
            return found
        # all of what was said, in Python: SQLite knows upper and lower case of ASCII only, and its index no part of a
        # word; ten megabytes take 50 ms
        missing = {info.id: search.casefold().split() for info in found}
        about = [(info.id, f"{info.id} {info.name or ''} {info.title}") for info in found]
        for session, text in [*about, *self.db.rows("SELECT session, content FROM messages")]:
            if words := missing.get(session):
                folded = text.casefold()
                missing[session] = [word for word in words if word not in folded]
        return [info for info in found if not missing[info.id]]

    def messages(self, session: str) -> builtins.list[Message]:
        """What was said in a session, oldest first, with what is out of the context by now."""
        return [stored.message.plain for stored in self.stored_messages(session)]

    def stored_messages(self, session: str) -> builtins.list[StoredMessage]:
        """The same with all that is known of each message."""
        rows = self.db.rows(
            "SELECT number, place, checksum, role, content, created, ids, n_kept, prompt_key FROM messages "
            "WHERE session = ? ORDER BY number",
            session,
        )
        return [_stored(*row) for row in rows]

    def rename(self, session: str, name: str | None) -> None:
        """Give a session a name, another one or none; raises as `create` does."""
        with _naming(name), self._changing(session):
            self.db.execute("UPDATE sessions SET name = ? WHERE id = ?", name, session)

    def set_model(self, session: str, model: str) -> None:
        """Note that a session goes on with another model."""
        with self._changing(session):
            self.db.execute("UPDATE sessions SET model = ? WHERE id = ?", model, session)

    def set_settings(self, session: str, settings: Mapping[str, Any]) -> None:
        """Replace the settings of a session."""
        with self._changing(session):
            self.db.execute("UPDATE sessions SET settings = ? WHERE id = ?", _to_json(settings), session)

    def remove(self, session: str) -> None:
        """Delete a session, with the keys and values that no other session shares; raises SessionBusy."""
        from llmrun.runner.kv_index import KVIndex

        lock = self.lock(session)
        try:
            KVIndex(self.db, self.folder, session).forget(session)
            self.db.execute("DELETE FROM sessions WHERE id = ?", session)
        except OSError as error:
            raise SessionError(f"{error.filename} cannot be deleted: {error.strerror or error}") from error
        finally:
            lock.release()
        lock.path.unlink(missing_ok=True)

    def remove_if_empty(self, session: str) -> None:
        """Delete a session without a name in which nothing was ever said."""
        self.db.execute(f"DELETE FROM sessions WHERE id = ? AND NOT {_NOT_EMPTY}", session)

    def export(self, session: str, format: Literal["markdown", "json", "text"]) -> str:
        """A session as a text for people or programs; raises UsageError for an unknown format."""
        from llmrun.runner.session_export import export

        return export(self.info(session), self.stored_messages(session), format)

    def disk_bytes(self, session: str) -> int:
        """Bytes of the messages of a session and of its keys and values, shared ones included."""
        ((said,),) = self.db.rows(
            "SELECT coalesce(sum(length(CAST(content AS BLOB)) + coalesce(length(ids), 0)), 0) FROM messages "
            "WHERE session = ?",
            session,
        )
        ((kept,),) = self.db.rows("SELECT coalesce(sum(n_bytes), 0) FROM kv_files WHERE session = ?", session)
        return int(said) + int(kept)

    def lock(self, session: str) -> FileLock:
        """Take the lock of a session; raises SessionBusy, with the id of the process that has it."""
        lock = FileLock(self._locks / f"{session}.lock")
        try:
            if lock.try_acquire():
                lock.write_holder()
                return lock
        except OSError as error:
            raise SessionError(f"{lock.path} cannot be locked: {error.strerror or error}") from error
        holder = lock.holder()
        if holder == os.getpid():
            who = "open in this process already"
        else:
            who = "open in another process" + (f" (process id {holder})" if holder else "")
        raise SessionBusy(f"the session {self.info(session).label} is {who}; close it there, or begin another session")

    def save(
        self,
        session: str,
        keep: int,
        moved: Iterable[tuple[int, Place]],
        new: Sequence[tuple[ChatMessage, Place]],
        system: str | None,
        n_tokens: int,
        fingerprint: str,
    ) -> builtins.list[int]:
        """In one transaction: delete the messages in use after number `keep`, move others, and append new ones.

        Returns the numbers of the new ones.
        """
        with self._changing(session):
            execute = self.db.execute
            execute("DELETE FROM messages WHERE session = ? AND number > ? AND place != 'cleared'", session, keep)
            for number, place in moved:
                execute("UPDATE messages SET place = ? WHERE number = ?", place, number)
            numbers = [self._append(session, message, place) for message, place in new]
            execute(
                "UPDATE sessions SET system = ?, n_tokens = ?, fingerprint = ?, updated = ? WHERE id = ?",
                *(system, n_tokens, fingerprint, time.time(), session),
            )
        return numbers

    def forget_ids(self, session: str) -> None:
        """Drop the ids of all messages, which mean nothing to another model."""
        with self._changing(session):
            for stored in self.stored_messages(session):
                message = stored.message
                message.ids, message.n_kept, message.prompt_key = None, 0, b""
                if stored.is_sound:  # else it would look sound afterwards
                    self.db.execute(
                        "UPDATE messages SET ids = NULL, n_kept = 0, prompt_key = x'', checksum = ? WHERE number = ?",
                        *(_checksum(*_fields(message)), stored.number),
                    )

    def is_sound(self, session: str) -> bool:
        """Whether what is on the disk of a session, apart from the texts of its messages, is what was written."""
        ((checksum,),) = self.db.rows("SELECT checksum FROM sessions WHERE id = ?", session)
        return bool(checksum == self._checksum_of(session))

    def close(self) -> None:
        """Close the file."""
        self.db.close()

    @contextmanager
    def _changing(self, session: str) -> Iterator[None]:
        """One transaction, which ends with the checksum of the session."""
        with self.db.transaction():
            yield
            self.db.execute("UPDATE sessions SET checksum = ? WHERE id = ?", self._checksum_of(session), session)

    def _checksum_of(self, session: str) -> int:
        row = self.db.rows(
            "SELECT id, name, model, system, settings, created, updated, n_tokens, fingerprint FROM sessions "
            "WHERE id = ?",
            session,
        )
        messages = self.db.rows(
            "SELECT number, place, checksum FROM messages WHERE session = ? ORDER BY number", session
        )
        return _checksum(row, messages)

    def _append(self, session: str, message: ChatMessage, place: Place) -> int:
        fields = _fields(message)
        number = self.db.execute(
            "INSERT INTO messages (session, place, checksum, role, content, created, ids, n_kept, prompt_key) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            *(session, place, _checksum(*fields), *fields),
        ).lastrowid
        assert number is not None
        return number


@contextmanager
def _naming(name: str | None) -> Iterator[None]:
    """Check a name before it is written, and say if it is taken."""
    if name is not None and not (re.fullmatch(r"[^\s\x00-\x1f-][^\x00-\x1f]*", name) and len(name) <= NAME_LENGTH):
        raise UsageError(
            f"{name!r} cannot be the name of a session; take one line of up to {NAME_LENGTH} characters that does "
            "not begin with a space or a hyphen"
        )
    try:
        yield
    except sqlite3.IntegrityError as error:
        raise SessionNameTaken(f"there is a session named {name!r} already; choose another name") from error


def _starts(name: str | None, text: str) -> bool:
    return name is not None and name.startswith(text)


def _info(row: tuple) -> SessionInfo:
    import json

    session, name, model, system, settings, created, updated, n_tokens, fingerprint, n_messages, first = row
    try:
        return SessionInfo(
            id=session,
            name=name,
            title=_title(first or ""),
            model=model,
            system=system,
            settings=json.loads(settings),
            created=datetime.fromtimestamp(created, UTC).astimezone(),
            updated=datetime.fromtimestamp(updated, UTC).astimezone(),
            n_messages=n_messages,
            n_tokens=int(n_tokens),
            fingerprint=fingerprint,
        )
    except (ValueError, TypeError, AttributeError, OverflowError, OSError) as error:  # not of the type that was written
        raise SessionError(f"what is known of the session {session} is damaged; put a copy of its file back") from error


def _to_json(settings: Mapping[str, Any]) -> str:
    import json

    return json.dumps(dict(settings), ensure_ascii=False)


def _title(text: str) -> str:
    line = " ".join(text.split())
    if len(line) <= TITLE_LENGTH:
        return line
    return line[: TITLE_LENGTH - 1].rsplit(" ", 1)[0] + "…"


def _fields(message: ChatMessage) -> tuple[str, str, float, bytes | None, int, bytes]:
    ids = None if message.ids is None else message.ids.tobytes()
    return message.role, message.content, message.created, ids, message.n_kept, message.prompt_key


def _checksum(*fields: object) -> int:
    return zlib.crc32(repr(fields).encode("utf-8", "surrogatepass"))


def _stored(number: int, place: Place, checksum: int, *fields: Any) -> StoredMessage:
    role, content, created, ids, n_kept, prompt_key = fields
    if _checksum(*fields) != checksum or place not in PLACES:
        return StoredMessage(number, "context", ChatMessage(str(role), str(content)), False)
    known = None if ids is None else array("i", ids)
    return StoredMessage(number, place, ChatMessage(role, content, known, n_kept, prompt_key, created), True)
