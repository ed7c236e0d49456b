"""Which sessions need which files of keys and values, and which files can go.

A row is there before its file, and a file goes before its last row does. So there is never a file that nobody
knows of, whenever the process is killed.
"""

from collections.abc import Collection, Iterable
from pathlib import Path

from llmrun.runner.file_lock import FileLock
from llmrun.runner.session_db import SessionDB


class KVIndex:
    """The table `kv_files`, seen from one session; belongs to the thread of its database."""

    def __init__(self, db: SessionDB, folder: Path, session: str) -> None:
        """`folder` is that of all sessions."""
        self._db = db
        self._kv_folder = folder / "kv"
        self._locks = folder / "locks"
        self._session = session

    def lengths(self, store: str) -> dict[str, int]:
        """The files of the session in a folder: the name of each, and how many ids lead to its end."""
        rows = self._db.rows("SELECT name, n_ids FROM kv_files WHERE session = ? AND folder = ?", self._session, store)
        return {name: n_ids for name, n_ids in rows if isinstance(n_ids, int)}  # unless the row is damaged

    def add(self, store: str, files: Iterable[tuple[str, int, int]]) -> None:
        """Note that the session needs these: name, ids that lead to its end, bytes."""
        with self._db.transaction():
            for name, n_ids, n_bytes in files:
                self._db.execute(
                    "INSERT OR IGNORE INTO kv_files (session, folder, name, n_ids, n_bytes) VALUES (?, ?, ?, ?, ?)",
                    *(self._session, store, name, n_ids, n_bytes),
                )

    def keep(self, store: str, names: Collection[str]) -> None:
        """Note that the session needs none but these, and delete those that nobody needs; raises OSError."""
        with self._db.transaction():
            rows = self._db.rows("SELECT folder, name FROM kv_files WHERE session = ?", self._session)
            self._forget(self._session, [row for row in rows if row[0] != store or row[1] not in names])

    def limit(self, max_bytes: int) -> bool:
        """Delete what the sessions need that were not used for the longest, until the rest is not above `max_bytes`.

        Leaves alone those that are open. Returns whether it is enough. Raises OSError.
        """
        oldest = self._db.rows(
            "SELECT id FROM sessions WHERE id != ? AND EXISTS (SELECT 1 FROM kv_files WHERE session = id) "
            "ORDER BY updated",
            self._session,
        )
        for (session,) in oldest:
            if self.n_bytes() <= max_bytes:
                return True
            lock = FileLock(self._locks / f"{session}.lock")
            if lock.try_acquire():
                try:
                    self.forget(session)
                finally:
                    lock.release()
        return self.n_bytes() <= max_bytes

    def forget(self, session: str) -> None:
        """Note that a session needs no files, and delete those that nobody needs; raises OSError."""
        with self._db.transaction():
            self._forget(session, self._db.rows("SELECT folder, name FROM kv_files WHERE session = ?", session))

    def n_bytes(self) -> int:
        """Bytes of the files of all sessions."""
        ((n_bytes,),) = self._db.rows(
            "SELECT coalesce(sum(n_bytes), 0) FROM (SELECT DISTINCT folder, name, n_bytes FROM kv_files)"
        )
        return int(n_bytes)

    def _forget(self, session: str, rows: Iterable[tuple[str, str]]) -> None:
        """Within a transaction, so that no other process begins to need a file while it is deleted."""
        for store, name in rows:
            others = self._db.rows(
                "SELECT 1 FROM kv_files WHERE folder = ? AND name = ? AND session != ? LIMIT 1", store, name, session
            )
            if not others:
                _delete(self._kv_folder / store / name)
            self._db.execute("DELETE FROM kv_files WHERE session = ? AND folder = ? AND name = ?", session, store, name)


def _delete(path: Path) -> None:
    path.unlink(missing_ok=True)
    try:
        path.parent.rmdir()  # when it was the last of its model
    except OSError:  # not the last, or another process has put one there
        return
