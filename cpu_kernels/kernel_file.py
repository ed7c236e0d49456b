"""A kernel's object code in the cache, behind its checksum: LLVM ends the process when it is given a damaged file."""

import hashlib
from pathlib import Path

from llmrun.quant_formats.whole_file import write_whole

_CHECKSUM_BYTES = hashlib.sha256().digest_size


def write_kernel(path: Path, code: bytes) -> None:
    """Write the file whole or not at all."""
    write_whole(path, hashlib.sha256(code).digest() + code)


def read_kernel(path: Path) -> bytes | None:
    """The object code; None where the file is missing or damaged."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    checksum, code = data[:_CHECKSUM_BYTES], data[_CHECKSUM_BYTES:]
    return code if hashlib.sha256(code).digest() == checksum else None
