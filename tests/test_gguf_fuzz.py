"""Whatever bytes the GGUF reader is given, it reads them or raises an error of ours."""

import os
import struct
import tempfile
from contextlib import suppress

import numpy as np
import pytest
from gguf_files import gguf_bytes, random_stored, string_bytes, tensor_bytes, write_gguf
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrun.quant_formats.errors import LlmrunError
from llmrun.quant_formats.formats import FORMATS
from llmrun.quant_formats.gguf_file import GGUFFile
from llmrun.quant_formats.string_array import StringArray

U32, U64 = struct.Struct("<I").pack, struct.Struct("<Q").pack
HUGE = 2**64 - 1


@pytest.fixture(scope="module")
def sound_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    rng = np.random.default_rng(0)
    metadata = {
        "general.architecture": "llama",
        "general.alignment": 32,
        "flags": [True, False],
        "floats": [0.25, -1.5],
        "tokens": ["<s>", "", "é"],
        "many": np.arange(5, dtype=np.uint64),
        "one": np.int8(7),
    }
    tensors = {format.name: random_stored(format.name, (3, 256), rng) for format in FORMATS.values()}
    return write_gguf(tmp_path_factory.mktemp("sound") / "model.gguf", metadata, tensors).read_bytes()


def read_everything(content: bytes) -> None:
    """Open a file with `content` and look at all of it; only our own errors may come."""
    handle, name = tempfile.mkstemp(suffix=".gguf")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        with suppress(LlmrunError), GGUFFile.open(name) as opened:
            _ = opened.architecture
            for tensor in opened.tensors.values():
                assert tensor.format.dequantize(tensor.data).size == np.prod(tensor.shape, dtype=object)
            for value in opened.metadata.values():
                if isinstance(value, StringArray):
                    value.tolist()
    finally:
        with suppress(PermissionError):  # Windows keeps a mapped file
            os.unlink(name)


fuzz = settings(max_examples=400, deadline=None, derandomize=True)


@fuzz
@given(st.binary(max_size=300))
def test_random_bytes(content: bytes) -> None:
    read_everything(content)
    read_everything(b"GGUF\x03\0\0\0" + content)


@fuzz
@given(data=st.data())
def test_mutated_file(sound_file: bytes, data: st.DataObject) -> None:
    content = bytearray(sound_file)
    header = content.index(b"Q6_K") + 40
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, header))
        patch = data.draw(
            st.one_of(
                st.binary(min_size=1, max_size=8),
                st.sampled_from([0, 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, HUGE]).map(U64),
            )
        )
        if data.draw(st.booleans()):
            content[at : at + len(patch)] = patch
        else:
            content[at : at + data.draw(st.integers(0, 8))] = patch
    read_everything(bytes(content[: data.draw(st.integers(0, 2 * len(content)))]))


value = st.one_of(
    st.tuples(st.sampled_from(range(14)), st.binary(max_size=9)),
    st.tuples(st.just(8), st.binary(max_size=9).map(string_bytes)),
    st.builds(
        lambda code, n, body: (9, U32(code) + U64(n) + body),
        st.integers(0, 13),
        st.one_of(st.integers(0, 4), st.integers(0, HUGE)),
        st.binary(max_size=40),
    ),
)
sizes = st.one_of(st.integers(0, 64), st.sampled_from([256, 2**31, 2**33, 2**62, 2**63, HUGE]))


@fuzz
@given(
    metadata=st.lists(
        st.tuples(st.sampled_from(["general.architecture", "general.alignment", "split.count", "k"]), value)
    ),
    shapes=st.lists(st.tuples(st.lists(sizes, max_size=5), st.integers(0, 42), sizes), max_size=4),
    body=st.binary(max_size=600),
)
def test_plausible_files(metadata: list, shapes: list, body: bytes) -> None:
    entries = [(key, code, content) for key, (code, content) in metadata]
    tensors = [tensor_bytes(f"t{i}", tuple(shape), code, at * 32 % 2**64) for i, (shape, code, at) in enumerate(shapes)]
    read_everything(gguf_bytes(entries, tensors, body))
