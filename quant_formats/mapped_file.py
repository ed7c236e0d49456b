"""Maps a file into memory, or says why it cannot."""

import errno
import mmap
import stat
from pathlib import Path

import numpy as np

from llmrun.quant_formats.errors import MissingFile, OutOfMemory, TruncatedFile


def map_file(path: Path) -> memoryview:
    """Return the bytes of a regular file as a read-only view.

    The mapping goes away with the last view or array that looks into it.
    """
    try:
        # Asked before opening, because opening a named pipe waits for its writer.
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise MissingFile(f"{path} is {kind}; give the path of a .gguf file")
        if status.st_size == 0:
            raise TruncatedFile(f"{path} is empty; download it again")
        with path.open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except FileNotFoundError:
        raise MissingFile(f"{path} does not exist; check the path") from None
    except PermissionError:
        raise MissingFile(f"{path} may not be read; check its permissions") from None
    except ValueError:  # a null character in the path, or the file shrank to nothing meanwhile
        raise MissingFile(f"{str(path)!r} is not the path of a file that can be mapped; check it") from None
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise OutOfMemory(f"{path} cannot be mapped: no address space is left; close other programs") from error
        raise MissingFile(f"{path} cannot be read: {error.strerror}") from error


def forget_pages(array: np.ndarray) -> None:
    """Give back the memory that reading a mapped array took; the array stays valid and is read again when touched.

    It does nothing for an array that is not mapped, and on a system that has no such call, where the pages go when
    memory is short.
    """
    view: object = array
    while isinstance(view, np.ndarray):
        view = view.base
    mapping = view.obj if isinstance(view, memoryview) else None
    if not isinstance(mapping, mmap.mmap) or not hasattr(mmap, "MADV_DONTNEED"):
        return
    offset = array.ctypes.data - np.frombuffer(mapping, np.uint8).ctypes.data
    start = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (offset + array.size) // mmap.PAGESIZE * mmap.PAGESIZE
    if end > start:
        mapping.madvise(mmap.MADV_DONTNEED, start, end - start)
