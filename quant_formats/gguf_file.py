"""The GGUF container: metadata and tensors, read in place from one file or from the parts of a split one.

Source: the GGUF specification, docs/gguf.md in ggml.
"""

import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

import numpy as np

from llmrun.quant_formats.byte_reader import ByteReader, quoted
from llmrun.quant_formats.errors import CorruptFile, MissingFile, MissingMetadata, NotGGUF, TruncatedFile
from llmrun.quant_formats.mapped_file import map_file
from llmrun.quant_formats.metadata import Metadata, read_metadata
from llmrun.quant_formats.tensor import Tensor, TensorInfo

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
PART_NAME = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


class GGUFFile:
    """An open GGUF file. Nothing but the header is read until a tensor's `data` is looked at.

    `metadata` maps keys to Python scalars, numpy arrays, and `StringArray` for arrays of strings; `tensors` maps names
    to `Tensor`, in file order. Of a split model any part may be given; the metadata is that of the first.
    """

    path: Path  # of the first part
    version: int
    metadata: Metadata
    tensors: dict[str, Tensor]

    def __init__(self, path: Path, version: int, metadata: Metadata, tensors: dict[str, Tensor]) -> None:
        """Use `GGUFFile.open`."""
        self.path = path
        self.version = version
        self.metadata = metadata
        self.tensors = tensors

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open the file, checking everything its header says. Raises `ModelFileError` or `UnsupportedModel`."""
        part = _read_part(Path(path))
        count = _integer(part.path, part.metadata, "split.count", 1)
        if count > 1:
            return cls._merge(_parts(part, count))
        return cls(part.path, part.version, part.metadata, {t.name: t for t in part.tensors})

    @classmethod
    def _merge(cls, parts: Iterator["_Part"]) -> Self:
        first = next(parts)
        merged = cls(first.path, first.version, first.metadata, {t.name: t for t in first.tensors})
        for part in parts:
            for tensor in part.tensors:
                if tensor.name in merged.tensors:
                    raise CorruptFile(f"{part.path}: tensor {quoted(tensor.name)} is in another part of the model too")
                merged.tensors[tensor.name] = tensor
        promised = _integer(first.path, first.metadata, "split.tensors.count", len(merged.tensors))
        if promised != len(merged.tensors):
            raise CorruptFile(
                f"{first.path}: the parts hold {len(merged.tensors)} tensors where {promised} were promised; "
                "download all parts again"
            )
        return merged

    @property
    def architecture(self) -> str:
        """The model family, such as "llama"."""
        name = self.metadata.get("general.architecture")
        if not isinstance(name, str):
            raise MissingMetadata(f"{self.path}: general.architecture is missing, so this is no language model")
        return name

    def close(self) -> None:
        """Let go of the file. Arrays taken from it stay valid, and the mapping goes away with the last of them."""
        self.metadata = MappingProxyType({})
        self.tensors = {}

    def __enter__(self) -> Self:
        """Return the file itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()


@dataclass(frozen=True)
class _Part:
    """One file as it lies on disk, whole or part of a split model."""

    path: Path
    version: int
    metadata: Metadata
    tensors: list[Tensor]


def _parts(part: _Part, count: int) -> Iterator[_Part]:
    """Go through the `count` parts of the split model that `part` belongs to, the first one first."""
    given = _integer(part.path, part.metadata, "split.no", 0)
    match = PART_NAME.fullmatch(part.path.name)
    if not 0 <= given < count:
        raise CorruptFile(f"{part.path} says it is part {given + 1} of {count}; download all parts again")
    if match is None or (int(match["number"]), int(match["count"])) != (given + 1, count):
        raise MissingFile(
            f"{part.path} is part {given + 1} of a model in {count} parts, so its name has to end in "
            f"-{given + 1:05}-of-{count:05}.gguf for the others to be found; rename it"
        )
    for number in range(count):
        path = part.path.with_name(f"{match['stem']}-{number + 1:05}-of-{count:05}.gguf")
        if not os.path.exists(path):
            raise MissingFile(f"{path} does not exist, and the model needs all its {count} parts; download it too")
        other = part if number == given else _read_part(path)
        says = [_integer(path, other.metadata, key, -1) for key in ("split.no", "split.count")]
        if says != [number, count]:
            raise CorruptFile(f"{path} is not part {number + 1} of {count} of this model; download it again")
        yield other


def _read_part(path: Path) -> _Part:
    view = map_file(path)
    reader = ByteReader(path, view)
    version = _read_version(reader)
    n_tensors = reader.u64("the number of tensors")
    n_keys = reader.u64("the number of metadata keys")
    metadata = read_metadata(reader, n_keys)
    alignment = _integer(path, metadata, "general.alignment", DEFAULT_ALIGNMENT)
    if alignment < 8 or alignment & (alignment - 1):
        raise CorruptFile(f"{path}: general.alignment is {alignment}, not a power of two of at least 8")
    infos = _read_infos(reader, n_tensors)
    data_start = -(-reader.position // alignment) * alignment
    _check_places(reader, infos, data_start, alignment)
    data = np.frombuffer(view, np.uint8)
    tensors = [_place(info, data, data_start) for info in infos]
    return _Part(path, version, metadata, tensors)


def _read_version(reader: ByteReader) -> int:
    magic = bytes(reader.view[: len(MAGIC)])
    if not MAGIC.startswith(magic):
        raise NotGGUF(f"{reader.path} is not a GGUF file: it starts with {magic!r}; convert the model to GGUF first")
    if len(magic) < len(MAGIC):
        raise TruncatedFile(f"{reader.path}: the file ends after {len(magic)} bytes; download it again")
    reader.take(len(MAGIC), "the magic number")
    version = reader.u32("the version of the format")
    if version in VERSIONS:
        return version
    (swapped,) = struct.unpack(">I", struct.pack("<I", version))
    if swapped in VERSIONS:
        raise NotGGUF(f"{reader.path} is a big-endian GGUF file; llmrun reads little-endian ones, get that variant")
    raise NotGGUF(f"{reader.path} has GGUF version {version}; llmrun reads versions 2 and 3, convert the model again")


def _read_infos(reader: ByteReader, count: int) -> list[TensorInfo]:
    infos: dict[str, TensorInfo] = {}
    for i in range(count):
        info = TensorInfo.read(reader, i)
        if info.name in infos:
            raise CorruptFile(f"{reader.path}: tensor {quoted(info.name)} appears twice; convert the file again")
        infos[info.name] = info
    return list(infos.values())


def _check_places(reader: ByteReader, infos: list[TensorInfo], data_start: int, alignment: int) -> None:
    """Check that the tensors are aligned, inside the file, and do not overlap."""
    for info in infos:
        if info.offset % alignment:
            raise CorruptFile(f"{reader.path}: tensor {quoted(info.name)} is not aligned to {alignment} bytes")
        reader.check_end(data_start + info.offset + info.n_bytes, f"tensor {quoted(info.name)}")
    for one, other in pairwise(sorted(infos, key=lambda info: info.offset)):
        if one.offset + one.n_bytes > other.offset:
            names = f"{quoted(one.name)} and {quoted(other.name)}"
            raise CorruptFile(f"{reader.path}: tensors {names} overlap; download or convert the file again")


def _place(info: TensorInfo, data: np.ndarray, data_start: int) -> Tensor:
    start = data_start + info.offset
    return Tensor(info.name, info.shape, info.format, data[start : start + info.n_bytes])


def _integer(path: Path, metadata: Metadata, key: str, default: int) -> int:
    value = metadata.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise CorruptFile(f"{path}: {key} is not an integer; convert the file again")
    return value
