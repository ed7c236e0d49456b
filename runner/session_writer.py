"""The thread that writes keys and values to disk, away from where tokens are computed."""

import os
import queue
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llmrun.quant_formats.errors import LlmrunError
from llmrun.runner.kv_index import KVIndex
from llmrun.runner.kv_store import HEADER_BYTES, KVStore
from llmrun.runner.session_db import SessionDB

BATCH = 32  # jobs; their blocks are noted in one transaction
POLL_SECONDS = 0.2
LOWEST_PRIORITY = 19


@dataclass(frozen=True)
class _Block:
    """A block to write: one that is full and retained, or a copy of one that is not."""

    name: str
    ids: Sequence[int]
    n_ids: int  # that lead to its end
    block: int | None
    data: np.ndarray | None


@dataclass(frozen=True)
class _Keep:
    """The files that the session needs from now on."""

    names: frozenset[str]


class SessionWriter:
    """Writes the blocks of one session one after the other.

    It never makes anybody wait, and an error ends the writing but nothing else: what is not on the disk can be computed
    again. `problem` then says what happened.
    """

    def __init__(
        self,
        folder: Path,
        session: str,
        store: KVStore,
        read_block: Callable[[int, np.ndarray], None],
        max_bytes: int,
    ) -> None:
        """`folder` is that of all sessions, `max_bytes` the limit for their files; `read_block` is `Model.read_kv`."""
        self.problem: str | None = None
        self.written: deque[int] = deque()  # retained blocks that are not needed any more
        self._folder = folder
        self._session = session
        self._store = store
        self._read_block = read_block
        self._max_bytes = max_bytes
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._file = np.empty(0, np.uint8)
        self._thread = threading.Thread(target=self._run, name=f"session {session}", daemon=True)
        self._thread.start()

    def write(self, name: str, ids: Sequence[int], n_ids: int, block: int) -> None:
        """Write a full block, which the caller has retained; it is in `written` afterwards, come what may."""
        self._jobs.put(_Block(name, ids, n_ids, block, None))

    def write_copy(self, name: str, ids: Sequence[int], n_ids: int, data: np.ndarray) -> None:
        """Write the contents of a block."""
        self._jobs.put(_Block(name, ids, n_ids, None, data))

    def keep(self, names: frozenset[str]) -> None:
        """Delete the session's other files, after what was asked for before."""
        self._jobs.put(_Keep(names))

    def flush(self) -> None:
        """Wait until all that was asked for is done."""
        done = threading.Event()
        self._jobs.put(done)
        while self._thread.is_alive() and not done.wait(POLL_SECONDS):
            pass

    def close(self) -> None:
        """Finish the work and end the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        _be_modest()
        try:
            db = SessionDB(self._folder / "sessions.db", durable=False)
        except LlmrunError as error:
            self.problem = str(error)
            self._work(None)
            return
        try:
            self._work(KVIndex(db, self._folder, self._session))
        finally:
            db.close()

    def _work(self, index: KVIndex | None) -> None:
        """Do what is asked for until the end; after an error, only say that it is done."""
        while True:
            jobs = self._next_jobs()
            with self._failing():
                self._note(index, [job for job in jobs if isinstance(job, _Block)])
            for job in jobs:
                with self._failing():
                    self._do(index, job)
                if isinstance(job, _Block) and job.block is not None:
                    self.written.append(job.block)
                if isinstance(job, threading.Event):
                    job.set()
                if job is None:
                    return

    def _next_jobs(self) -> list["_Job"]:
        """One, or several blocks if they are there already; nothing after a job of another kind."""
        jobs = [self._jobs.get()]
        while isinstance(jobs[-1], _Block) and len(jobs) < BATCH and not self._jobs.empty():
            jobs.append(self._jobs.get())
        return jobs

    def _note(self, index: KVIndex | None, blocks: list[_Block]) -> None:
        if index is not None and self.problem is None and blocks:
            index.add(self._store.name, [(job.name, job.n_ids, self._store.file_bytes) for job in blocks])
            if not index.limit(self._max_bytes):
                limit = self._max_bytes / 2**30
                self.problem = f"the keys and values of this session alone take more than {limit:.3g} GiB on disk"

    def _do(self, index: KVIndex | None, job: "_Job") -> None:
        if index is None or self.problem is not None:
            return
        if isinstance(job, _Block):
            if len(self._file) == 0:
                self._file = np.empty(self._store.file_bytes, np.uint8)
            data = self._file[HEADER_BYTES:]
            if job.data is not None:
                data[:] = job.data
            else:
                assert job.block is not None
                self._read_block(job.block, data)
            self._store.write(job.name, job.ids, self._file, self._session)
        elif isinstance(job, _Keep):
            index.keep(self._store.name, job.names)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Stop writing when something goes wrong, and keep why."""
        try:
            yield
        except (OSError, LlmrunError) as error:
            reason = str(error) if isinstance(error, LlmrunError) else error.strerror or str(error)
            self.problem = self.problem or reason


_Job = _Block | _Keep | threading.Event | None


def _be_modest() -> None:
    """Let the threads that compute go first; elsewhere than on Linux priorities belong to processes."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_PRIORITY)
