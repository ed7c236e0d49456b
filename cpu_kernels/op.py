"""The record of one operation: 32 words that a kernel reads its arguments from.

Word 0 holds the kernel's address and word 1 whether the threads meet after it. Words 2 and 3 say where the weights of
the next product are: those of a thread begin at `AHEAD` + thread x `AHEAD_STRIDE`; 0 where there is none. The others
are the kernel's own, in the order of its fields. Addresses and sizes are plain integers; a float is kept as its 32
bits.
"""

import struct
from collections import namedtuple
from typing import Any

RECORD_WORDS = 32
RECORD_BYTES = 8 * RECORD_WORDS
KERNEL, BARRIER, AHEAD, AHEAD_STRIDE, FIRST_FIELD = range(5)


def fields(names: str) -> Any:
    """Offsets in bytes of a kernel's fields in a record, as a named tuple, which Numba takes as constants.

    >>> F = fields("source target")
    >>> F.source, F.target
    (32, 40)
    """
    words = names.split()
    assert len(words) <= RECORD_WORDS - FIRST_FIELD, words
    return namedtuple("Fields", words)._make(8 * (FIRST_FIELD + i) for i in range(len(words)))


def float_word(x: float) -> int:
    """A float as a word of a record."""
    return struct.unpack("<i", struct.pack("<f", x))[0]
