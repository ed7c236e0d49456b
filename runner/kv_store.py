"""Keys and values on disk: one file for each block, named by the ids that lead to it.

    header   512 bytes: magic, version, number of ids, bytes of data, name, ids, zeros, CRC-32 of all of the file but
             these last four bytes
    data     what `Model.read_kv` gave

A name is a hash of the engine's fingerprint and of all ids up to the end of the block. So what is the same is there
once, whichever sessions it belongs to, and a file is never taken for that of another model or another text. A file is
written under a temporary name; nothing waits for the disk, because what is missing or damaged afterwards is noticed by
length or checksum, and can be computed again.
"""

import hashlib
import os
import struct
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llmrun.runner.kv_cache import BLOCK_TOKENS

MAGIC = b"LLMRUNKV"
VERSION = 1
HEADER_BYTES = 512
NAME_BYTES = 20
CHECKSUM_BYTES = 4

_FIELDS = struct.Struct(f"<8sIIQ{NAME_BYTES}s")


class DamagedKV(LookupError):
    """A file that is not there, or not what was written; the keys and values in it have to be computed again."""


class KVNames:
    """The names of the blocks of a text that grows and changes."""

    def __init__(self, fingerprint: str) -> None:
        self.names: list[str] = []  # of the full blocks
        self._root = hashlib.blake2b(fingerprint.encode(), digest_size=NAME_BYTES).hexdigest()
        self._blocks: list[list[int]] = []

    def follow(self, ids: Sequence[int]) -> None:
        """Name the full blocks of `ids`; those that are the same as before keep their names."""
        blocks = [list(ids[i : i + BLOCK_TOKENS]) for i in range(0, len(ids) - BLOCK_TOKENS + 1, BLOCK_TOKENS)]
        n_same = 0
        while n_same < min(len(blocks), len(self._blocks)) and blocks[n_same] == self._blocks[n_same]:
            n_same += 1
        del self.names[n_same:]
        for block in blocks[n_same:]:
            self.names.append(self.next_name(len(self.names), block))
        self._blocks = blocks

    @staticmethod
    def of_residual(name: str) -> str:
        """The name of the residuals of a block."""
        return hashlib.blake2b(b"residual", digest_size=NAME_BYTES, key=bytes.fromhex(name)).hexdigest()

    def next_name(self, index: int, ids: Sequence[int]) -> str:
        """The name of a block of these ids after the first `index` full ones."""
        parent = self.names[index - 1] if index else self._root
        return hashlib.blake2b(_bytes_of(ids), digest_size=NAME_BYTES, key=bytes.fromhex(parent)).hexdigest()


class KVStore:
    """The files of one fingerprint."""

    def __init__(self, folder: Path, fingerprint: str, data_bytes: int) -> None:
        """`data_bytes` is the size of a block, `Model.kv_block_bytes`."""
        self.name = fingerprint[:16]
        self.folder = folder / self.name
        self.data_bytes = data_bytes
        self.file_bytes = HEADER_BYTES + data_bytes
        self._local = threading.local()

    def write(self, name: str, ids: Sequence[int], file: np.ndarray, owner: str) -> None:
        """Write `file`, (file_bytes,) uint8 with the data in place behind an empty header, unless it is there already.

        `owner`, the session, keeps the temporary file apart from those of others. Raises OSError.
        """
        path = self.folder / name
        if path.exists():
            return
        file[:HEADER_BYTES] = np.frombuffer(_header(name, ids, self.data_bytes), np.uint8)
        file[HEADER_BYTES - CHECKSUM_BYTES : HEADER_BYTES] = np.frombuffer(_checksum(file), np.uint8)
        part = self.folder / f"{name}.{owner}.part"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(part, "wb", 0) as out:
                if out.write(file.data) != file.nbytes:  # a disk that is almost full takes a part
                    raise OSError(f"{part} could be written in part only")
            _put_in_place(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def remove_parts(self, owner: str) -> None:
        """Delete what the process of a session left when it was killed."""
        for part in self.folder.glob(f"*.{owner}.part"):
            part.unlink(missing_ok=True)

    def read(self, name: str, ids: Sequence[int]) -> np.ndarray:
        """The data of a block, (data_bytes,) uint8, valid until the same thread reads another.

        Raises DamagedKV for a file that is not there or not sound, after deleting it.
        """
        path = self.folder / name
        file = self._buffer()
        try:
            with open(path, "rb", 0) as source:
                # one byte more than there should be, so that a file that is too long shows
                is_whole = source.readinto(file.data) == len(file) and not source.read(1)
        except FileNotFoundError as error:
            raise DamagedKV("is missing") from error
        except OSError as error:
            raise DamagedKV(f"cannot be read ({error.strerror or error})") from error
        if is_whole and self._is_sound(file, _header(name, ids, self.data_bytes)):
            return file[HEADER_BYTES:]
        try:
            path.unlink(missing_ok=True)  # or the sound one that comes would not be written
        except OSError as error:
            raise DamagedKV(f"is damaged and cannot be deleted ({error.strerror or error})") from error
        raise DamagedKV("is damaged")

    def _is_sound(self, file: np.ndarray, header: bytes) -> bool:
        end = HEADER_BYTES - CHECKSUM_BYTES
        return file[:end].tobytes() == header[:end] and file[end:HEADER_BYTES].tobytes() == _checksum(file)

    def _buffer(self) -> np.ndarray:
        """Memory for a file, one for each thread: the processor's caches still have it when it is copied."""
        if not hasattr(self._local, "file"):
            self._local.file = np.empty(self.file_bytes, np.uint8)
        file: np.ndarray = self._local.file
        return file


def _header(name: str, ids: Sequence[int], data_bytes: int) -> bytes:
    fields = _FIELDS.pack(MAGIC, VERSION, len(ids), data_bytes, bytes.fromhex(name))
    return (fields + _bytes_of(ids)).ljust(HEADER_BYTES, b"\0")


def _checksum(file: np.ndarray) -> bytes:
    start = zlib.crc32(file.data[: HEADER_BYTES - CHECKSUM_BYTES])
    return zlib.crc32(file.data[HEADER_BYTES:], start).to_bytes(4, "little")


def _bytes_of(ids: Sequence[int]) -> bytes:
    return np.array(ids, "<i4").tobytes()


def _put_in_place(part: Path, path: Path) -> None:
    try:
        os.replace(part, path)
    except PermissionError:  # Windows: another process reads the same file, and so has it
        if not path.exists():
            raise
        part.unlink(missing_ok=True)
