"""Memory in large pages."""

import itertools
import re
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


def test_linux_is_asked_for_large_pages() -> None:
    if not Path("/sys/kernel/mm/transparent_hugepage/enabled").exists():
        pytest.skip("this system has no large pages to give")
    assert "hg" in _flags(LargePages().take(1).ctypes.data)


def _flags(address: int) -> list[str]:
    """What the system was told of the mapping that an address lies in."""
    inside = False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if bounds := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(bounds[1], 16) <= address < int(bounds[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return line.split()[1:]
    raise AssertionError("no mapping holds the address")
