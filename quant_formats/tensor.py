"""One tensor of a GGUF file: what it is called, how it is stored, and where its bytes are."""

from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from llmrun.quant_formats.block_format import BlockFormat
from llmrun.quant_formats.byte_reader import MAX_SIZE, ByteReader, quoted
from llmrun.quant_formats.errors import CorruptFile, UnknownTensorType
from llmrun.quant_formats.formats import FORMATS, UNSUPPORTED_NAMES

MAX_DIMENSIONS = 4


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor; its bytes stay in the file until somebody looks at them."""

    name: str
    shape: tuple[int, ...]  # rows first, as in numpy: the reverse of the order in the file
    format: BlockFormat
    data: np.ndarray  # uint8 (n_bytes,), read-only: the rows one after the other

    @property
    def n_bytes(self) -> int:
        """Bytes of the whole tensor."""
        return self.data.size

    @property
    def rows_bytes(self) -> int:
        """Bytes of one row, that is, of the last dimension."""
        return self.shape[-1] // self.format.block_size * self.format.block_bytes


@dataclass(frozen=True)
class TensorInfo:
    """What the header says of a tensor, checked as far as it can be before the data section is known."""

    name: str
    shape: tuple[int, ...]
    format: BlockFormat
    offset: int  # bytes from the start of the data section

    @property
    def n_bytes(self) -> int:
        """Bytes of the whole tensor."""
        return prod(self.shape) // self.format.block_size * self.format.block_bytes

    @classmethod
    def read(cls, reader: ByteReader, index: int) -> "TensorInfo":
        """Read the header entry of tensor number `index`."""
        name = reader.name(f"the name of tensor {index}")
        what = f"the description of tensor {quoted(name)}"
        n_dimensions = reader.u32(what)
        if not 1 <= n_dimensions <= MAX_DIMENSIONS:
            raise CorruptFile(f"{reader.path}: tensor {quoted(name)} has {n_dimensions} dimensions, not 1 to 4")
        shape = tuple(reader.u64(what) for _ in range(n_dimensions))[::-1]
        format = _format(reader.path, name, reader.u32(what))
        info = cls(name, shape, format, offset=reader.u64(what))
        info._check_shape(reader.path)
        return info

    def _check_shape(self, path: Path) -> None:
        what = f"{path}: tensor {quoted(self.name)} of shape {self.shape}"
        if 0 in self.shape:
            raise CorruptFile(f"{what} has no weights; convert the file again")
        if self.shape[-1] % self.format.block_size:
            block = f"{self.format.block_size} weights of {self.format.name}"
            raise CorruptFile(f"{what} has rows that are not whole blocks of {block}; convert the file again")
        if max(prod(self.shape), self.n_bytes) > MAX_SIZE:
            raise CorruptFile(f"{what} is too big to be real: its size overflows; download the file again")


def _format(path: Path, name: str, ggml_type: int) -> BlockFormat:
    if ggml_type in FORMATS:
        return FORMATS[ggml_type]
    stored = UNSUPPORTED_NAMES.get(ggml_type, "an unknown type")
    readable = ", ".join(f.name for f in FORMATS.values())
    raise UnknownTensorType(
        f"{path}: tensor {quoted(name)} is stored as {stored} (number {ggml_type}), which llmrun does not read; "
        f"use a file with {readable}"
    )
