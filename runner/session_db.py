"""The SQLite file of the sessions: its tables, transactions, and what its errors mean to a person."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmrun.quant_formats.errors import DiskFull, SessionError

VERSION = 1
BUSY_SECONDS = 30.0  # to wait for another process that writes, which takes milliseconds

SCHEMA = """
CREATE TABLE sessions (
    id TEXT PRIMARY KEY,
    name TEXT UNIQUE,
    model TEXT NOT NULL,
    system TEXT,
    settings TEXT NOT NULL,               -- JSON
    created REAL NOT NULL,                -- seconds since 1970
    updated REAL NOT NULL,
    n_tokens INTEGER NOT NULL DEFAULT 0,
    fingerprint TEXT NOT NULL DEFAULT '',
    checksum INTEGER NOT NULL DEFAULT 0   -- CRC-32 of the above and of the checksums of the messages
) WITHOUT ROWID;
CREATE TABLE messages (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    session TEXT NOT NULL REFERENCES sessions ON DELETE CASCADE,
    checksum INTEGER NOT NULL,            -- CRC-32 of what follows
    role TEXT NOT NULL,
    content TEXT NOT NULL,
    place TEXT NOT NULL,                  -- 'context'; 'dropped' to make room; 'cleared' by the user
    created REAL NOT NULL,
    ids BLOB,                             -- int32; see chat_message.py
    n_kept INTEGER NOT NULL,
    prompt_key BLOB NOT NULL
);
CREATE INDEX messages_of_session ON messages (session);
CREATE TABLE kv_files (
    session TEXT NOT NULL REFERENCES sessions ON DELETE CASCADE,
    folder TEXT NOT NULL,
    name TEXT NOT NULL,
    n_ids INTEGER NOT NULL,               -- that lead to the end of the block
    n_bytes INTEGER NOT NULL,
    PRIMARY KEY (session, folder, name)
) WITHOUT ROWID;
CREATE INDEX kv_files_by_name ON kv_files (folder, name);
"""


class SessionDB:
    """A connection, to be used by the thread that made it.

    WAL lets others read meanwhile, and a process that is killed leaves every transaction either done or not begun.
    `durable` transactions also survive a loss of power.
    """

    def __init__(self, path: Path, durable: bool = True) -> None:
        self.path = path
        with self._reporting():
            self._connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
            # a damaged text is found by its checksum, not by its encoding
            self._connection.text_factory = lambda text: text.decode("utf-8", "replace")
            try:
                self._prepare(durable)
            except BaseException:
                self._connection.close()
                raise

    def _prepare(self, durable: bool) -> None:
        execute = self._connection.execute
        execute("PRAGMA journal_mode = WAL")
        execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        execute("PRAGMA foreign_keys = ON")
        if self._version() == 0:
            with self.transaction():
                if self._version() == 0:  # not made by another process in between
                    for statement in SCHEMA.split(";\n"):
                        execute(statement)
                    execute(f"PRAGMA user_version = {VERSION}")
        if self._version() != VERSION:
            raise SessionError(
                f"{self.path} is of version {self._version()} and this llmrun knows {VERSION}; use the llmrun that "
                "wrote it, or move the file away to begin anew"
            )

    def _version(self) -> int:
        return int(self._connection.execute("PRAGMA user_version").fetchone()[0])

    def rows(self, query: str, *values: object) -> list[tuple]:
        """All rows of a query."""
        with self._reporting():
            return self._connection.execute(query, values).fetchall()

    def execute(self, statement: str, *values: object) -> sqlite3.Cursor:
        """Change something: by itself, or within a transaction."""
        with self._reporting():
            return self._connection.execute(statement, values)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of what is done in it, or nothing."""
        with self._reporting():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # not if SQLite rolled it back already
                    self._connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.IntegrityError:  # the caller knows what it means
            raise
        except sqlite3.Error as error:
            raise _session_error(error, self.path) from error
        except UnicodeDecodeError as error:  # in SQLite's own message, which quotes what it could not read
            raise SessionError(_DAMAGED.format(path=self.path, error="not text")) from error


_DAMAGED = "{path} is damaged ({error}); move it away to begin anew, or put a copy in its place"


def _session_error(error: sqlite3.Error, path: Path) -> SessionError:
    primary = getattr(error, "sqlite_errorcode", 0) & 0xFF
    match primary:
        case sqlite3.SQLITE_FULL:
            return DiskFull(f"the disk is full, so nothing could be saved in {path}; make room and try again")
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return SessionError(_DAMAGED.format(path=path, error=error))
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return SessionError(f"{path} is in use by another program that does not let go; end that and try again")
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return SessionError(f"{path} cannot be written ({error}); check the rights of its folder")
    return SessionError(f"{path} cannot be read or written: {error}; check the disk")
