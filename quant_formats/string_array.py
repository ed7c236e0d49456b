"""The strings of a metadata array, left in the file until they are asked for."""

import builtins
import struct
from array import array
from collections.abc import Iterator, Sequence
from typing import overload

from llmrun.quant_formats.byte_reader import ByteReader
from llmrun.quant_formats.errors import CorruptFile

LENGTH_BYTES = 8


class StringArray(Sequence[str]):
    """A sequence of strings that knows only where each one ends; a vocabulary of 262k opens in some 30 ms.

    In the file each string is its length (64 bits) and then its bytes, so string i lies between
    `ends[i - 1] + 8` and `ends[i]`.
    """

    def __init__(self, view: memoryview, start: int, ends: "array[int]", what: str) -> None:
        """`view` is the whole file, `start` where the first length lies; `what` is for the messages."""
        self._view = view
        self._start = start
        self._ends = ends
        self._what = what

    @classmethod
    def scan(cls, reader: ByteReader, count: int, what: str) -> "StringArray":
        """Step over `count` strings. Memory grows with the strings that are there, whatever `count` says."""
        view, unpack, n_bytes = reader.view, struct.Struct("<Q").unpack_from, len(reader.view)
        start = position = reader.position
        last = n_bytes - LENGTH_BYTES  # where the last length may lie
        ends = array("q")
        append = ends.append
        for _ in range(count):
            if position > last:
                reader.check_end(position + LENGTH_BYTES, what)
            position += LENGTH_BYTES + unpack(view, position)[0]
            if position > n_bytes:
                reader.check_end(position, what)
            append(position)
        reader.position = position
        return cls(view, start, ends, f"{reader.path}: {what}")

    def __len__(self) -> int:
        """Return the number of strings."""
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        """Return one string, or a list of them."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._decode(index, self.bytes(index))

    def __iter__(self) -> Iterator[str]:
        """Go through the strings."""
        return iter(self.tolist())

    def bytes(self, index: int) -> builtins.bytes:
        """Return the bytes of one string; they may be no valid UTF-8."""
        end = self._ends[index]
        index %= len(self)
        begin = self._ends[index - 1] if index else self._start
        return bytes(self._view[begin + LENGTH_BYTES : end])

    def tolist(self) -> list[str]:
        """Return all the strings."""
        strings = self.tolist_bytes()
        try:
            return [string.decode() for string in strings]
        except UnicodeDecodeError:
            return [self._decode(i, string) for i, string in enumerate(strings)]

    def tolist_bytes(self) -> list[builtins.bytes]:
        """Return the bytes of all the strings."""
        if not self._ends:
            return []
        blob = bytes(self._view[self._start : self._ends[-1]])
        result, begin, shift = [], LENGTH_BYTES, self._start
        for end in self._ends:
            result.append(blob[begin : end - shift])
            begin = end - shift + LENGTH_BYTES
        return result

    def _decode(self, index: int, string: builtins.bytes) -> str:
        try:
            return string.decode()
        except UnicodeDecodeError:
            raise CorruptFile(f"{self._what} holds text that is not UTF-8 at index {index}") from None
