"""The GGUF reader agrees with the `gguf` package's and refuses everything that is not a sound file."""

import os
import struct
import tracemalloc
from collections.abc import Callable
from itertools import count
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf_files import gguf_bytes, random_stored, string_bytes, tensor_bytes, write_gguf

from llmrun.quant_formats.errors import (
    CorruptFile,
    LlmrunError,
    MissingFile,
    MissingMetadata,
    ModelFileError,
    NotGGUF,
    TruncatedFile,
    UnknownTensorType,
    UnsupportedModel,
)
from llmrun.quant_formats.formats import FORMATS
from llmrun.quant_formats.gguf_file import GGUFFile
from llmrun.quant_formats.string_array import StringArray

METADATA = {
    "general.architecture": "llama",
    "a.string": "Grüße, 世界 🌍",
    "an.empty.string": "",
    "a.flag": True,
    "a.float": 0.5,
    "flags": [True, False, True],
    "floats": [0.25, -1.5],
    "tokens": ["<s>", "", "é", "🦙", "a\nb"],
    **{f"one.{t}": getattr(np, t)(7) for t in ("uint8", "int8", "uint16", "int16", "uint32", "int32")},
    **{f"one.{t}": getattr(np, t)(7) for t in ("uint64", "int64", "float32", "float64")},
    **{f"many.{t}": np.arange(5, dtype=t) for t in ("uint8", "int8", "uint16", "int16", "uint32", "int32")},
    **{f"many.{t}": np.arange(5, dtype=t) for t in ("uint64", "int64", "float32", "float64")},
}


def some_tensors() -> dict[str, object]:
    rng = np.random.default_rng(0)
    tensors = {f"blk.{i}.{f.name}": random_stored(f.name, (3, 256), rng) for i, f in enumerate(FORMATS.values())}
    return {**tensors, "cube": random_stored("Q8_0", (2, 3, 64), rng), "vector": np.arange(5, dtype=np.float32)}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("good") / "model.gguf", METADATA, some_tensors())


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    """Give a function that writes bytes to a new file; new, because Windows does not overwrite a mapped one."""
    numbers = count()

    def write_bytes(content: bytes) -> Path:
        path = tmp_path / f"{next(numbers)}.gguf"
        path.write_bytes(content)
        return path

    return write_bytes


def assert_same(path: Path) -> None:
    """Compare what we read with what the `gguf` package reads."""
    reader = gguf.GGUFReader(path)
    with GGUFFile.open(path) as ours:
        expected = {key: field for key, field in reader.fields.items() if not key.startswith("GGUF.")}
        assert list(ours.metadata) == list(expected)
        for key, field in expected.items():
            value = ours.metadata[key]
            if isinstance(value, StringArray):
                assert value.tolist_bytes() == [bytes(field.parts[i]) for i in field.data]
                assert value.tolist() == [string.decode() for string in value.tolist_bytes()]
            elif isinstance(value, np.ndarray):
                assert value.flags.aligned
                assert value.dtype == field.parts[field.data[0]].dtype
                np.testing.assert_array_equal(value, np.concatenate([field.parts[i] for i in field.data]))
            else:
                assert (type(value), value) == (type(field.contents()), field.contents())
        assert list(ours.tensors) == [tensor.name for tensor in reader.tensors]
        for theirs in reader.tensors:
            tensor = ours.tensors[theirs.name]
            assert tensor.shape == tuple(theirs.shape.tolist())[::-1]
            assert (tensor.format.name, tensor.n_bytes) == (theirs.tensor_type.name, theirs.n_bytes)
            assert tensor.rows_bytes * np.prod(tensor.shape[:-1], dtype=int) == tensor.n_bytes
            assert not tensor.data.flags.writeable
            np.testing.assert_array_equal(tensor.data, theirs.data.reshape(-1).view(np.uint8))


# What is read


def test_same_as_the_reference_reader(good: Path) -> None:
    assert_same(good)


@pytest.mark.parametrize("alignment", [8, 64, 4096])
def test_other_alignments(tmp_path: Path, alignment: int) -> None:
    assert_same(write_gguf(tmp_path / "model.gguf", METADATA, some_tensors(), alignment=alignment))


def test_real_llama(smollm2_path: Path) -> None:
    assert_same(smollm2_path)


def test_real_gemma3(gemma3_path: Path) -> None:
    assert_same(gemma3_path)


def test_version_2_is_read_like_version_3(good: Path, write: Callable[[bytes], Path]) -> None:
    content = bytearray(good.read_bytes())
    content[4] = 2
    assert GGUFFile.open(write(bytes(content))).version == 2


def test_no_tensors_and_no_data_section(tmp_path: Path) -> None:
    file = GGUFFile.open(write_gguf(tmp_path / "vocab.gguf", METADATA))
    assert file.tensors == {}
    assert file.architecture == "llama"


def test_string_array(good: Path) -> None:
    tokens = GGUFFile.open(good).metadata["tokens"]
    assert isinstance(tokens, StringArray)
    expected = METADATA["tokens"]
    assert list(tokens) == tokens.tolist() == expected
    assert [tokens[i] for i in range(-5, 5)] == expected * 2
    assert tokens[1:4] == expected[1:4]
    assert tokens.bytes(3) == "🦙".encode()
    assert tokens.index("é") == 2
    for outside in (5, -6):
        with pytest.raises(IndexError):
            tokens[outside]


def test_arrays_outlive_the_file(good: Path) -> None:
    with GGUFFile.open(good) as file:
        data, tokens = file.tensors["vector"].data, file.metadata["tokens"]
    assert not file.tensors
    np.testing.assert_array_equal(data.view(np.float32), np.arange(5))
    assert list(tokens) == METADATA["tokens"]


def test_text_that_is_not_utf8_is_found_when_it_is_read(write: Callable[[bytes], Path]) -> None:
    tokens = write(
        gguf_bytes(
            [("t", 9, struct.pack("<IQ", 8, 3) + string_bytes(b"a") + string_bytes(b"\xff") + string_bytes(b""))]
        )
    )
    array = GGUFFile.open(tokens).metadata["t"]
    assert array.tolist_bytes() == [b"a", b"\xff", b""]
    assert array[0] == "a"
    for read in (array.tolist, lambda: array[1]):
        with pytest.raises(CorruptFile, match=r"'t' holds text that is not UTF-8 at index 1"):
            read()


# Split files


@pytest.fixture
def split(tmp_path: Path) -> list[Path]:
    write_gguf(tmp_path / "big.gguf", METADATA, some_tensors(), tensors_a_part=5)
    return sorted(tmp_path.glob("big-*.gguf"))


@pytest.mark.parametrize("given", [0, 1, 2])
def test_split_file(split: list[Path], good: Path, given: int) -> None:
    merged, whole = GGUFFile.open(split[given]), GGUFFile.open(good)
    assert merged.path == split[0]
    assert list(merged.tensors) == list(whole.tensors)
    for name, tensor in whole.tensors.items():
        np.testing.assert_array_equal(merged.tensors[name].data, tensor.data)
    assert list(merged.metadata["tokens"]) == METADATA["tokens"]


def test_missing_part_is_named(split: list[Path]) -> None:
    split[1].unlink()
    with pytest.raises(MissingFile, match=r"big-00002-of-00003\.gguf does not exist.*all its 3 parts"):
        GGUFFile.open(split[0])


def test_renamed_part(split: list[Path]) -> None:
    renamed = split[1].rename(split[1].with_name("other.gguf"))
    with pytest.raises(MissingFile, match=r"part 2 of a model in 3 parts.*-00002-of-00003\.gguf"):
        GGUFFile.open(renamed)


def test_part_in_the_wrong_place(split: list[Path]) -> None:
    split[2].write_bytes(split[1].read_bytes())
    with pytest.raises(CorruptFile, match="not part 3 of 3"):
        GGUFFile.open(split[0])


@pytest.mark.parametrize(
    ("key", "layout", "value", "message"),
    [
        ("split.tensors.count", "<i", 99, "hold 13 tensors where 99 were promised"),
        ("split.no", "<H", 7, "says it is part 8 of 3"),
        ("split.count", "<H", 4, r"part 1 of a model in 4 parts"),
    ],
)
def test_parts_that_do_not_add_up(split: list[Path], key: str, layout: str, value: int, message: str) -> None:
    content = bytearray(split[0].read_bytes())
    struct.pack_into(layout, content, content.index(key.encode()) + len(key) + 4, value)
    split[0].write_bytes(content)
    with pytest.raises(ModelFileError, match=message):
        GGUFFile.open(split[0])


def test_tensor_in_two_parts(split: list[Path]) -> None:
    content = split[1].read_bytes()
    split[1].write_bytes(content.replace(b"blk.5.Q5_0", b"blk.4.Q4_1"))
    with pytest.raises(CorruptFile, match=r"'blk\.4\.Q4_1' is in another part"):
        GGUFFile.open(split[0])


# Files made by hand


U32, U64 = struct.Struct("<I").pack, struct.Struct("<Q").pack
HUGE = 2**64 - 1
WRONG = {
    "empty": (b"", TruncatedFile, "is empty"),
    "text": (b"Hello, I am a text file.", NotGGUF, "starts with b'Hell'"),
    "start of the magic": (b"GG", TruncatedFile, "ends after 2 bytes"),
    "version 1": (gguf_bytes(version=1), NotGGUF, "has GGUF version 1;"),
    "version 4": (gguf_bytes(version=4), NotGGUF, "has GGUF version 4;"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), NotGGUF, "big-endian"),
    "too many tensors": (b"GGUF" + struct.pack("<IQQ", 3, HUGE, 0), TruncatedFile, "name of tensor 0"),
    "too many keys": (b"GGUF" + struct.pack("<IQQ", 3, 0, HUGE), TruncatedFile, "name of metadata key 0"),
    "value type": (gguf_bytes([("k", 13, b"")]), CorruptFile, "'k' has the unknown type 13"),
    "array type": (gguf_bytes([("k", 9, U32(99) + U64(0))]), CorruptFile, "'k' has the unknown type 99"),
    "nested array": (gguf_bytes([("k", 9, U32(9) + U64(1))]), UnsupportedModel, "'k' is an array of arrays"),
    "flag": (gguf_bytes([("k", 7, b"\x02")]), CorruptFile, "'k' is neither true nor false"),
    "flags": (gguf_bytes([("k", 9, U32(7) + U64(3) + b"\0\1\2")]), CorruptFile, "neither true nor false"),
    "huge string": (gguf_bytes([("k", 8, U64(HUGE))]), CorruptFile, "size of metadata value 'k' overflows"),
    "long string": (gguf_bytes([("k", 8, U64(10**6))]), TruncatedFile, "ends inside metadata value 'k'"),
    "huge array": (gguf_bytes([("k", 9, U32(12) + U64(2**62))]), CorruptFile, "'k' overflows"),
    "long array": (gguf_bytes([("k", 9, U32(12) + U64(2**40))]), TruncatedFile, "inside metadata value 'k'"),
    "many strings": (gguf_bytes([("k", 9, U32(8) + U64(HUGE))]), TruncatedFile, "inside metadata value 'k'"),
    "huge string in an array": (gguf_bytes([("k", 9, U32(8) + U64(1) + U64(HUGE))]), CorruptFile, "overflows"),
    "key twice": (gguf_bytes([("k", 0, b"1"), ("k", 0, b"1")]), CorruptFile, "'k' appears twice"),
    "long key": (gguf_bytes([("k" * 65536, 0, b"1")]), CorruptFile, "longer than 65535 bytes"),
    "key not UTF-8": (gguf_bytes([("k", 0, b"1")]).replace(b"k", b"\xff"), CorruptFile, "key 0 is not UTF-8"),
    "control characters": (gguf_bytes([("\x1b[2J\n", 13, b"")]), CorruptFile, r"'\\x1b\[2J\\n' has"),
    "string not UTF-8": (gguf_bytes([("k", 8, string_bytes(b"\xff"))]), CorruptFile, "'k' is not UTF-8"),
    "alignment 0": (gguf_bytes([("general.alignment", 4, U32(0))]), CorruptFile, "alignment is 0"),
    "alignment 48": (gguf_bytes([("general.alignment", 4, U32(48))]), CorruptFile, "alignment is 48"),
    "alignment text": (gguf_bytes([("general.alignment", 8, string_bytes(b"x"))]), CorruptFile, "not an integer"),
    "tensor twice": (
        gguf_bytes([], [tensor_bytes("t", (8,)), tensor_bytes("t", (8,))]),
        CorruptFile,
        "'t' appears twice",
    ),
    "no dimensions": (gguf_bytes([], [tensor_bytes("t", ())]), CorruptFile, "'t' has 0 dimensions"),
    "5 dimensions": (gguf_bytes([], [tensor_bytes("t", (1,) * 5)]), CorruptFile, "'t' has 5 dimensions"),
    "no weights": (gguf_bytes([], [tensor_bytes("t", (8, 0))]), CorruptFile, r"'t' of shape \(0, 8\) has no weights"),
    "shape overflows": (gguf_bytes([], [tensor_bytes("t", (2**32, 2**32))]), CorruptFile, "size overflows"),
    "offset overflows": (gguf_bytes([], [tensor_bytes("t", (8,), 0, HUGE - 31)]), CorruptFile, "'t' overflows"),
    "beyond the end": (gguf_bytes([], [tensor_bytes("t", (8,), 0, 32)], bytes(63)), TruncatedFile, "inside tensor 't'"),
    "offset not aligned": (
        gguf_bytes([], [tensor_bytes("t", (8,), 0, 4)], bytes(64)),
        CorruptFile,
        "not aligned to 32",
    ),
    "overlap": (
        gguf_bytes([], [tensor_bytes("t", (9,)), tensor_bytes("u", (8,), 0, 32)], bytes(64)),
        CorruptFile,
        "'t' and 'u' overlap",
    ),
    "half a block": (
        gguf_bytes([], [tensor_bytes("t", (48,), 2)], bytes(64)),
        CorruptFile,
        "blocks of 32 weights of Q4_0",
    ),
    "known type": (
        gguf_bytes([], [tensor_bytes("t", (256,), 16)]),
        UnknownTensorType,
        r"stored as IQ2_XXS \(number 16\)",
    ),
    "unknown type": (
        gguf_bytes([], [tensor_bytes("t", (256,), 999)]),
        UnknownTensorType,
        r"unknown type \(number 999\)",
    ),
}


@pytest.mark.parametrize(("content", "error", "message"), WRONG.values(), ids=WRONG.keys())
def test_wrong_file(write: Callable[[bytes], Path], content: bytes, error: type[LlmrunError], message: str) -> None:
    path = write(content)
    tracemalloc.start()
    try:
        with pytest.raises(error, match=message) as caught:
            GGUFFile.open(path)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert type(caught.value) is error
    assert str(path) in str(caught.value)
    assert str(caught.value).isprintable()


def test_right_file_by_hand(write: Callable[[bytes], Path]) -> None:
    file = GGUFFile.open(write(gguf_bytes([("k", 4, U32(5))], [tensor_bytes("t", (4, 2))], bytes(range(32)))))
    assert dict(file.metadata) == {"k": 5}
    assert file.tensors["t"].shape == (2, 4)
    assert bytes(file.tensors["t"].data) == bytes(range(32))
    with pytest.raises(MissingMetadata, match=r"general\.architecture"):
        _ = file.architecture


def test_truncated_at_any_byte(write: Callable[[bytes], Path], tmp_path: Path) -> None:
    metadata = {"general.architecture": "llama", "tokens": ["a", "bc"], "ids": [1, 2], "on": True}
    tensors = {"t": np.arange(40, dtype=np.float32), "u": np.ones((2, 32), np.float32)}
    whole = write_gguf(tmp_path / "whole.gguf", metadata, tensors).read_bytes()
    assert GGUFFile.open(write(whole)).tensors.keys() == tensors.keys()
    for n_bytes in range(len(whole)):
        with pytest.raises(TruncatedFile):
            GGUFFile.open(write(whole[:n_bytes]))


# Paths that lead to no file


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="does not exist"):
        GGUFFile.open(tmp_path / "no.gguf")


def test_directory(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="is a directory"):
        GGUFFile.open(tmp_path)


def test_path_through_a_file(good: Path) -> None:
    with pytest.raises(MissingFile):
        GGUFFile.open(good / "model.gguf")


def test_null_character_in_the_path() -> None:
    with pytest.raises(MissingFile):
        GGUFFile.open("a\0b.gguf")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_named_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(MissingFile, match="not a regular file"):
        GGUFFile.open(tmp_path / "pipe.gguf")


def test_no_permission(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(MissingFile, match="may not be read"):
        GGUFFile.open(good)
