"""A read position in a mapped file; every read is checked against the end of the file first."""

import struct
from pathlib import Path

from llmrun.quant_formats.errors import CorruptFile, TruncatedFile

MAX_SIZE = 2**63 - 1  # what a signed 64-bit size holds; more is never a real size
MAX_NAME_BYTES = 65535  # the GGUF specification's limit for a key
MAX_QUOTED = 80  # characters of a name that a message repeats
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


class ByteReader:
    """Reads little-endian values from `view` one after the other; `path` is for the messages."""

    def __init__(self, path: Path, view: memoryview) -> None:
        self.path = path
        self.view = view
        self.position = 0

    def value(self, layout: struct.Struct, what: str) -> int | float:
        """Read one number."""
        start = self.take(layout.size, what)
        number: int | float = layout.unpack_from(self.view, start)[0]
        return number

    def u32(self, what: str) -> int:
        """Read an unsigned 32-bit integer."""
        return int(self.value(_U32, what))

    def u64(self, what: str) -> int:
        """Read an unsigned 64-bit integer."""
        return int(self.value(_U64, what))

    def string(self, what: str) -> str:
        """Read a string: its length in bytes as 64 bits, then the bytes."""
        n_bytes = self.u64(f"the length of {what}")
        start = self.take(n_bytes, what)
        try:
            return str(self.view[start : start + n_bytes], "utf-8")
        except UnicodeDecodeError:
            raise CorruptFile(f"{self.path}: {what} is not UTF-8 text; download or convert the file again") from None

    def name(self, what: str) -> str:
        """Read the name of a key or a tensor."""
        start = self.position
        name = self.string(what)
        if self.position - start - 8 > MAX_NAME_BYTES:
            raise CorruptFile(f"{self.path}: {what} is longer than {MAX_NAME_BYTES} bytes; download the file again")
        return name

    def take(self, n_bytes: int, what: str) -> int:
        """Step over `n_bytes` and return where they start."""
        start = self.position
        self.check_end(start + n_bytes, what)
        self.position = start + n_bytes
        return start

    def check_end(self, end: int, what: str) -> None:
        """Raise unless the file has at least `end` bytes."""
        if end > MAX_SIZE:
            raise CorruptFile(f"{self.path}: the size of {what} overflows; download or convert the file again")
        if end > len(self.view):
            raise TruncatedFile(
                f"{self.path}: the file ends inside {what}: {len(self.view):,} bytes are there, {end:,} are needed; "
                "download it again"
            )


def quoted(name: str) -> str:
    """Return a name out of a file as it may stand in a message: one line, printable, not too long."""
    return repr(name if len(name) <= MAX_QUOTED else name[:MAX_QUOTED] + "...")
