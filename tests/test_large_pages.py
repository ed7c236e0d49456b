"""Memory in large pages."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from llmrun.cpu_kernels.large_pages import PAGE_BYTES, RESERVED_BYTES, LargePages


def test_pieces_begin_on_cache_lines_and_do_not_overlap() -> None:
    memory = LargePages()
    pieces = [memory.take(n) for n in (1, 64, 65, PAGE_BYTES + 1, 7)]
    assert [len(piece) for piece in pieces] == [1, 64, 65, PAGE_BYTES + 1, 7]
    assert not any(piece.ctypes.data % 64 for piece in pieces)
    for value, piece in enumerate(pieces):
        piece[:] = value
    assert all((piece == value).all() for value, piece in enumerate(pieces))


def test_pieces_follow_each_other_in_pages() -> None:
    memory = LargePages()
    pieces = [memory.take(1 << 20) for _ in range(5)]
    starts = [piece.ctypes.data for piece in pieces]
    assert starts[0] % PAGE_BYTES == 0
    assert [after - before for before, after in itertools.pairwise(starts)] == [1 << 20] * 4


def test_a_piece_of_any_size() -> None:
    memory = LargePages()
    small, large, after = memory.take(10), memory.take(RESERVED_BYTES + 1), memory.take(10)
    for piece in (small, large[-10:], after):
        piece[:] = 1


def test_pieces_live_longer_than_what_gave_them() -> None:
    piece = LargePages().take(1000)
    piece[:] = 3
    np.testing.assert_array_equal(piece, 3)


def test_more_than_there_is() -> None:
    with pytest.raises(MemoryError):
        LargePages().take(1 << 55)


def test_linux_gives_large_pages() -> None:
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.exists() or "[never]" in setting.read_text(encoding="ascii"):
        pytest.skip("this system has no large pages to give")
    before = _bytes_in_large_pages()
    piece = LargePages().take(8 * PAGE_BYTES)
    piece[:] = 1
    assert _bytes_in_large_pages() > before


def _bytes_in_large_pages() -> int:
    rollup = Path("/proc/self/smaps_rollup").read_text(encoding="ascii")
    return next(int(line.split()[1]) << 10 for line in rollup.splitlines() if line.startswith("AnonHugePages"))
