"""Small GGUF files for tests: sound ones written with the format's own package, and any others put together by hand."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

from llmrun.quant_formats.block_format import BlockFormat
from llmrun.quant_formats.formats import format_named


@dataclass(frozen=True)
class Stored:
    """A tensor as it is stored: the format, and uint8 rows of shape (..., bytes of a row)."""

    format: BlockFormat
    rows: np.ndarray

    @property
    def weights(self) -> np.ndarray:
        """The weights as the `gguf` package reads them, float32 (..., weights of a row)."""
        return gguf.quants.dequantize(self.rows, gguf.GGMLQuantizationType(self.format.ggml_type))


def quantised(format_name: str, weights: np.ndarray) -> Stored:
    """Store float32 `weights` in a format that the `gguf` package can write (any but the K-quants)."""
    format = format_named(format_name)
    if format_name in ("F32", "F16"):
        rows = weights.astype({"F32": np.float32, "F16": np.float16}[format_name]).view(np.uint8)
    else:
        rows = gguf.quants.quantize(weights, gguf.GGMLQuantizationType(format.ggml_type))
    return Stored(format, rows)


def random_stored(format_name: str, shape: tuple[int, ...], rng: np.random.Generator, scale: float = 0.05) -> Stored:
    """Make random weights of any format: the integers take every value, a weight is at most about `scale`."""
    format = format_named(format_name)
    if format.block_size == 1:
        return quantised(format_name, rng.uniform(-scale, scale, shape).astype(np.float32))
    blocks = rng.integers(0, 256, (*shape[:-1], shape[-1] // format.block_size, format.block_bytes), np.uint8)
    records = blocks.view(format.layout)
    largest = np.abs(_with_scales(records, 1.0, format)).max()
    _with_scales(records, scale / largest, format)
    return Stored(format, blocks.reshape(*shape[:-1], -1))


def _with_scales(records: np.ndarray, scale: float, format: BlockFormat) -> np.ndarray:
    """Set all float scales of the blocks to `scale`, in place, and return the weights."""
    for field in ("d", "m", "dmin"):
        if field in (format.layout.names or ()):
            records[field] = scale
    return format.dequantize(np.ascontiguousarray(records).view(np.uint8).reshape(-1))


def write_gguf(
    path: Path,
    metadata: Mapping[str, object],
    tensors: Mapping[str, Stored | np.ndarray] | None = None,
    *,
    alignment: int | None = None,
    tensors_a_part: int = 0,
) -> Path:
    """Write a GGUF file and return where it is (of a split one, the first part).

    metadata: the key general.architecture is needed; an int is written as uint32 (int32 if negative), a float as
    float32, lists and tuples as arrays, numpy scalars and numeric numpy arrays as their own type.
    tensors: an array is written as F32. tensors_a_part: split the file after so many tensors.
    """
    writer = gguf.GGUFWriter(path, str(metadata["general.architecture"]), split_max_tensors=tensors_a_part)
    if alignment is not None:
        writer.add_custom_alignment(alignment)
    for key, value in metadata.items():
        if key != "general.architecture":  # written by the writer itself
            _add(writer, key, value)
    for name, tensor in (tensors or {}).items():
        stored = tensor if isinstance(tensor, Stored) else quantised("F32", tensor)
        writer.add_tensor(name, stored.rows, raw_dtype=gguf.GGMLQuantizationType(stored.format.ggml_type))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path if path.exists() else next(iter(sorted(path.parent.glob(f"{path.stem}-00001-of-*.gguf"))))


def _add(writer: gguf.GGUFWriter, key: str, value: object) -> None:
    if isinstance(value, np.ndarray):
        writer.add_key_value(key, value.tolist(), gguf.GGUFValueType.ARRAY, _value_type(value.flat[0]))
    elif isinstance(value, list | tuple):
        writer.add_key_value(key, list(value), gguf.GGUFValueType.ARRAY, _value_type(value[0]))
    else:
        writer.add_key_value(key, value, _value_type(value))


def _value_type(value: object) -> gguf.GGUFValueType:
    if isinstance(value, np.generic):
        return gguf.GGUFValueType["BOOL" if value.dtype == np.bool_ else value.dtype.name.upper()]
    if isinstance(value, bool):
        return gguf.GGUFValueType.BOOL
    if isinstance(value, int):
        return gguf.GGUFValueType.INT32 if value < 0 else gguf.GGUFValueType.UINT32
    return gguf.GGUFValueType.FLOAT32 if isinstance(value, float) else gguf.GGUFValueType.STRING


def string_bytes(text: bytes) -> bytes:
    """Return a string as a file holds it."""
    return struct.pack("<Q", len(text)) + text


def gguf_bytes(
    metadata: list[tuple[str, int, bytes]] = (), tensors: list[bytes] = (), data: bytes = b"", version: int = 3
) -> bytes:
    """Put a file together from (key, type, bytes of the value), tensor descriptions and the data section."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    head += b"".join(string_bytes(key.encode()) + struct.pack("<I", code) + value for key, code, value in metadata)
    head += b"".join(tensors)
    return head + bytes(-len(head) % 32) + data


def tensor_bytes(name: str, shape: tuple[int, ...], ggml_type: int = 0, offset: int = 0) -> bytes:
    """Return the description of a tensor; `shape` in the order of the file."""
    dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return string_bytes(name.encode()) + dimensions + struct.pack("<IQ", ggml_type, offset)
