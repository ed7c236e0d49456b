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

# The numbers by which the file names the type of a value; for numbers, what `struct` and numpy call that type.
BOOL, STRING, ARRAY = 7, 8, 9
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", BOOL: "B", 10: "Q", 11: "q", 12: "d"}
_STRUCTS = {code: struct.Struct("<" + letter) for code, letter in NUMBERS.items()}
_DTYPES = {code: np.dtype("<" + letter) for code, letter in NUMBERS.items()}


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
    dtype = _DTYPES[code]
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
