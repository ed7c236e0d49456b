"""The keys and values of a session, between the engine and the disk."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llmrun.runner.block_table import BlockTable
from llmrun.runner.kv_cache import BLOCK_TOKENS, blocks_for
from llmrun.runner.kv_index import KVIndex
from llmrun.runner.kv_store import DamagedKV, KVNames, KVStore
from llmrun.runner.prefix_tree import common_prefix
from llmrun.runner.session_writer import SessionWriter

if TYPE_CHECKING:
    from llmrun.runner.engine import Engine

Notify = Callable[[str], None]
"""Called with one line that the user should see; what it tells of was dealt with."""


class SessionKV:
    """Has blocks written when they are full, the last one at the end of a turn, and reads them again.

    A full block is never written by the engine again, so the writer reads it in place, and holds it meanwhile. The
    methods belong to the thread of the engine.
    """

    def __init__(self, engine: "Engine", folder: Path, session: str, max_bytes: int, notify: Notify) -> None:
        """`folder` is that of all sessions, and `max_bytes` what their keys and values may take together."""
        self._engine = engine
        self._notify = notify
        self._store = KVStore(folder / "kv", engine.fingerprint, engine.model.kv_block_bytes)
        self._names = KVNames(engine.fingerprint)
        self._on_disk: set[str] = set()  # files that are written, or will be
        self._n_seen: int | None = None  # full blocks of the table that are named and on their way
        self._is_problem_told = False
        self._store.remove_parts(session)
        self._writer = SessionWriter(folder, session, self._store, engine.model.read_kv, max_bytes)
        engine.kv_cache.on_shortage.append(self.flush)

    def restore(self, table: BlockTable, ids: Sequence[int], index: KVIndex) -> None:
        """Fill an empty table with what there is on disk of `ids`, and say if something is missing."""
        lengths = index.lengths(self._store.name)
        wanted = self._wanted(ids, lengths)
        end = sum(len(block) for _, block in wanted)
        problems: dict[int, str] = {}

        def read(i: int) -> np.ndarray:
            try:
                return self._store.read(*wanted[i])
            except DamagedKV as problem:
                problems[i] = str(problem)
                raise

        def read_residual(i: int) -> np.ndarray:
            name, block_ids = wanted[i]
            return self._store.read(self._names.of_residual(name), block_ids)

        n_restored = self._engine.restore(table, ids[:end], read, read_residual)
        self._on_disk = {name for name, _ in wanted[: blocks_for(n_restored)]}
        residuals = {self._names.of_residual(wanted[i][0]) for i in table.residuals}
        self._on_disk |= residuals & lengths.keys()
        # the last id was never computed; less than a block may be missing after a kill, and takes no time
        n_missing = len(ids) - 1 - n_restored
        if problems or n_missing >= BLOCK_TOKENS:
            why = f"a file {problems[min(problems)]}" if problems else "they are not on disk"
            self._notify(
                f"keys and values of {n_missing:,} of {len(ids):,} tokens of this session could not be restored "
                f"({why}); the model reads that part again with your next message"
            )

    def changed(self) -> None:
        """The ids of the context may be others."""
        self._n_seen = None

    def computed(self, table: BlockTable) -> None:
        """Have the blocks written that have become full."""
        self._after_writing()
        n_full = len(table.tokens) // BLOCK_TOKENS
        if n_full != self._n_seen:
            self._names.follow(table.tokens)
            self._write_full_blocks(table)
            self._n_seen = n_full

    def settled(self, table: BlockTable, ids: Sequence[int]) -> None:
        """Have the last block written too, and delete what does not belong to the context `ids`."""
        known = table.tokens[: common_prefix(table.tokens, list(ids))]
        self._names.follow(known)
        self._write_full_blocks(table)
        last = self._write_last_block(table, known)
        self._names.follow(ids)  # those that are not in memory any more are still on the disk
        names = frozenset([*self._names.names, *self._residual_names(table, len(known), len(ids) - 1), *last])
        self._on_disk &= names
        self._writer.keep(names)
        self._n_seen = None
        self._after_writing()

    def flush(self) -> None:
        """Wait until all is written, and release it."""
        self._writer.flush()
        self._after_writing()

    def close(self) -> None:
        """Finish writing."""
        self._writer.close()
        self._after_writing()
        self._engine.kv_cache.on_shortage.remove(self.flush)

    def _wanted(self, ids: Sequence[int], lengths: dict[str, int]) -> list[tuple[str, Sequence[int]]]:
        """Names and ids of the files to read: the full blocks, and the longest piece of the next."""
        self._names.follow(ids)
        names = self._names.names
        n_full = next((i for i, name in enumerate(names) if name not in lengths), len(names))
        start = n_full * BLOCK_TOKENS
        wanted = [(name, ids[i * BLOCK_TOKENS : (i + 1) * BLOCK_TOKENS]) for i, name in enumerate(names[:n_full])]
        for end in sorted(lengths.values(), reverse=True):
            if start < end < min(start + BLOCK_TOKENS, len(ids) + 1):
                name = self._names.next_name(n_full, ids[start:end])
                if lengths.get(name) == end:
                    return [*wanted, (name, ids[start:end])]
        return wanted

    def _write_full_blocks(self, table: BlockTable) -> None:
        for i, name in enumerate(self._names.names):
            for name_of_it, block in self._parts(table, i, name):
                if name_of_it not in self._on_disk and self._writer.problem is None:
                    self._on_disk.add(name_of_it)
                    self._engine.kv_cache.retain(block)
                    end = (i + 1) * BLOCK_TOKENS
                    self._writer.write(name_of_it, table.tokens[end - BLOCK_TOKENS : end], end, block)

    def _write_last_block(self, table: BlockTable, known: list[int]) -> list[str]:
        """Have the piece of a block after the full ones written, if there is one; returns the names of its files."""
        index, n_ids = divmod(len(known), BLOCK_TOKENS)
        if n_ids == 0:
            return []
        parts = self._parts(table, index, self._names.next_name(index, known[-n_ids:]))
        for name, block in parts:
            if name not in self._on_disk and self._writer.problem is None:
                self._on_disk.add(name)
                data = np.empty(self._store.data_bytes, np.uint8)  # a copy: the next turn goes on writing there
                self._engine.model.read_kv(block, data)
                self._writer.write_copy(name, known[-n_ids:], len(known), data)
        return [name for name, _ in parts]

    def _residual_names(self, table: BlockTable, *lengths: int) -> list[str]:
        """The files with residuals of full blocks that are needed to go on after so many tokens."""
        needed = {i for n in lengths for i in table.needed_residuals(n)}
        return [self._names.of_residual(name) for i, name in enumerate(self._names.names) if i in needed]

    def _parts(self, table: BlockTable, index: int, name: str) -> list[tuple[str, int]]:
        """The files of a block and what they hold: the block, and its residuals, as far as the table has them."""
        parts = [(name, table.blocks[index])]
        if index in table.residuals:
            parts.append((self._names.of_residual(name), table.residuals[index]))
        return parts

    def _after_writing(self) -> None:
        """Release the blocks that are written, and say once if writing has come to an end."""
        while self._writer.written:
            self._engine.kv_cache.release(self._writer.written.popleft())
        if self._writer.problem is not None and not self._is_problem_told:
            self._is_problem_told = True
            self._notify(
                f"keys and values are not kept on disk any more ({self._writer.problem}); messages are, and the model "
                "will read them again when the session is resumed"
            )
