"""The metadata of a GGUF file: keys with values that are numbers, flags, strings or arrays of these.

Source: the GGUF specification, docs/gguf.md in ggml.
"""

import struct
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from llmrun.quant_formats.byte_reader import ByteReader, quoted
from llmrun.quant_formats.errors import CorruptFile, UnsupportedModel
from llmrun.quant_formats.string_array import StringArray

Metadata = Mapping[str, object]

# The numbers by which the file names the type of a value.
BOOL, STRING, ARRAY = 7, 8, 9
NUMBERS: dict[int, np.dtype] = {
    0: np.dtype("u1"),
    1: np.dtype("i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    4: np.dtype("<u4"),
    5: np.dtype("<i4"),
    6: np.dtype("<f4"),
    BOOL: np.dtype("u1"),
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}
_STRUCTS = {code: struct.Struct("<" + dtype.char) for code, dtype in NUMBERS.items()}


def read_metadata(reader: ByteReader, count: int) -> Metadata:
    """Read `count` keys and their values: Python scalars, numpy arrays, and `StringArray` for arrays of strings."""
    metadata: dict[str, object] = {}
    for i in range(count):
        key = reader.name(f"the name of metadata key {i}")
        if key in metadata:
            raise CorruptFile(f"{reader.path}: metadata key {quoted(key)} appears twice; convert the file again")
        metadata[key] = _read_value(reader, reader.u32(f"the type of {quoted(key)}"), f"metadata value {quoted(key)}")
    return MappingProxyType(metadata)


def _read_value(reader: ByteReader, code: int, what: str) -> object:
    if code == STRING:
        return reader.string(what)
    if code == ARRAY:
        return _read_array(reader, what)
    if code not in NUMBERS:
        raise CorruptFile(f"{reader.path}: {what} has the unknown type {code}; download or convert the file again")
    value = reader.value(_STRUCTS[code], what)
    if code != BOOL:
        return value
    if value > 1:
        raise _not_a_flag(reader, what)
    return bool(value)


def _read_array(reader: ByteReader, what: str) -> np.ndarray | StringArray:
    code = reader.u32(f"the type of {what}")
    count = reader.u64(f"the length of {what}")
    if code == STRING:
        return StringArray.scan(reader, count, what)
    if code == ARRAY:
        raise UnsupportedModel(f"{reader.path}: {what} is an array of arrays, which llmrun does not read")
    if code not in NUMBERS:
        raise CorruptFile(f"{reader.path}: {what} has the unknown type {code}; download or convert the file again")
    dtype = NUMBERS[code]
    start = reader.take(count * dtype.itemsize, what)
    # A copy, because in the file numbers lie at any address.
    values = np.frombuffer(reader.view, dtype, count, start).copy()
    if code != BOOL:
        return values
    if (values > 1).any():
        raise _not_a_flag(reader, what)
    return values.astype(np.bool_)


def _not_a_flag(reader: ByteReader, what: str) -> CorruptFile:
    return CorruptFile(f"{reader.path}: {what} is neither true nor false; download or convert the file again")
