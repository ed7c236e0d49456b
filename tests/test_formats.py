"""Dequantisation is bit-equal to the `gguf` package's, whatever the bytes."""

import gguf
import numpy as np
import pytest
from gguf_files import random_stored

from llmrun.quant_formats.block_format import WEIGHTS_AT_ONCE, BlockFormat
from llmrun.quant_formats.formats import FORMATS, UNSUPPORTED_NAMES, dequantize, format_named

every_format = pytest.mark.parametrize("format", FORMATS.values(), ids=lambda f: f.name)


def reference(format: BlockFormat, blocks: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType(format.ggml_type)).reshape(-1)


def bits(weights: np.ndarray) -> np.ndarray:
    assert weights.dtype == np.float32
    return weights.view(np.uint32)


@every_format
def test_random_blocks_with_every_byte_everywhere(format: BlockFormat) -> None:
    rng = np.random.default_rng(format.ggml_type)
    # Each column is a shuffle of all 256 values, several times over, so scales are also inf, NaN and subnormal.
    blocks = np.tile(np.arange(256, dtype=np.uint8)[:, None], (8, format.block_bytes))
    blocks = rng.permuted(blocks, axis=0)
    np.testing.assert_array_equal(bits(dequantize(format, blocks.reshape(-1))), bits(reference(format, blocks)))


@every_format
def test_random_blocks_with_ordinary_scales(format: BlockFormat) -> None:
    stored = random_stored(format.name, (64, 512), np.random.default_rng(1))
    weights = dequantize(format, stored.rows.reshape(-1))
    np.testing.assert_array_equal(bits(weights), bits(stored.weights.reshape(-1)))
    assert np.abs(weights).max() <= 0.051
    assert weights.std() > 0.005


@every_format
def test_more_than_one_piece_from_unaligned_bytes(format: BlockFormat) -> None:
    rng = np.random.default_rng(2)
    n_blocks = WEIGHTS_AT_ONCE // format.block_size + 3
    data = rng.integers(0, 256, 1 + n_blocks * format.block_bytes, np.uint8)[1:]
    expected = reference(format, data.reshape(n_blocks, -1))
    np.testing.assert_array_equal(bits(format.dequantize(data)), bits(expected))


@every_format
def test_no_blocks(format: BlockFormat) -> None:
    assert dequantize(format, np.empty(0, np.uint8)).size == 0


@every_format
def test_sizes_are_those_of_the_format(format: BlockFormat) -> None:
    assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[format.name]] == (format.block_size, format.block_bytes)
    assert format_named(format.name) is format


def test_every_numbered_format_has_one_name() -> None:
    assert not FORMATS.keys() & UNSUPPORTED_NAMES.keys()
    ours = UNSUPPORTED_NAMES | {number: format.name for number, format in FORMATS.items()}
    for known in gguf.GGMLQuantizationType:
        assert ours.get(known.value, known.name) == known.name
