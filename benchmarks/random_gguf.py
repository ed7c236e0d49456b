"""Writes a GGUF file of a real model's shape with random weights, for sizes that cannot be shipped: Q4_K_M throughout.

How fast a model runs depends on its shape and its block formats, not on what the weights are; what it says is noise.
The matrices are random blocks whose scales make weights of a usual size, so that everything stays finite. The
vocabulary is the 256 bytes and placeholders.
"""

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import gguf
import numpy as np

from llmrun.quant_formats.block_format import BlockFormat
from llmrun.quant_formats.formats import format_named

WEIGHT_STD = 0.03
TILE_BLOCKS = 60_013  # about 10 MB of blocks, over and over; a prime, so that no two rows begin alike
MIN_OVER_SCALE = 7.5  # of a Q4_K block: 4-bit integers are as often above their minimum's offset as below
PRINTABLE = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
MERGES = [("h", "e"), ("t", "he"), ("i", "n")]


@dataclass(frozen=True)
class Shape:
    """The hyperparameters of a llama."""

    name: str
    n_layers: int
    n_embd: int
    n_ff: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    tied: bool  # the output multiplies with the embedding table
    n_vocab: int = 128256
    n_ctx: int = 16384

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...], str]]:
        """Name, shape (rows first) and format of every tensor, as llama.cpp's Q4_K_M chooses them."""
        yield "token_embd.weight", (self.n_vocab, self.n_embd), "Q6_K" if self.tied else "Q4_K"
        for layer in range(self.n_layers):
            yield from self._layer(f"blk.{layer}.", "Q6_K" if self._is_important(layer) else "Q4_K")
        yield "output_norm.weight", (self.n_embd,), "F32"
        if not self.tied:
            yield "output.weight", (self.n_vocab, self.n_embd), "Q6_K"

    def _layer(self, prefix: str, important: str) -> Iterator[tuple[str, tuple[int, ...], str]]:
        q, kv = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        yield prefix + "attn_norm.weight", (self.n_embd,), "F32"
        yield prefix + "attn_q.weight", (q, self.n_embd), "Q4_K"
        yield prefix + "attn_k.weight", (kv, self.n_embd), "Q4_K"
        yield prefix + "attn_v.weight", (kv, self.n_embd), important
        yield prefix + "attn_output.weight", (self.n_embd, q), "Q4_K"
        yield prefix + "ffn_norm.weight", (self.n_embd,), "F32"
        yield prefix + "ffn_gate.weight", (self.n_ff, self.n_embd), "Q4_K"
        yield prefix + "ffn_up.weight", (self.n_ff, self.n_embd), "Q4_K"
        yield prefix + "ffn_down.weight", (self.n_embd, self.n_ff), important

    def _is_important(self, layer: int) -> bool:
        """Whether a layer keeps more bits: the first and the last eighth, and every third between."""
        eighth = self.n_layers // 8
        return layer < eighth or layer >= 7 * self.n_layers // 8 or (layer - eighth) % 3 == 2


SHAPES = {
    "1b": Shape("Llama-3.2-1B shape", 16, 2048, 8192, 32, 8, 64, tied=True),
    "3b": Shape("Llama-3.2-3B shape", 28, 3072, 8192, 24, 8, 128, tied=True),
    "8b": Shape("Llama-3.1-8B shape", 32, 4096, 14336, 32, 8, 128, tied=False),
}


def write_random_gguf(path: Path, shape: Shape) -> None:
    """Write the file; the same shape gives the same bytes every time."""
    writer = gguf.GGUFWriter(path, "llama")
    _add_metadata(writer, shape)
    tensors = [(name, size, format_named(format)) for name, size, format in shape.tensors()]
    for name, size, format in tensors:
        n_bytes = _n_blocks(size, format) * format.block_bytes
        kind = gguf.GGMLQuantizationType(format.ggml_type)
        writer.add_tensor_info(name, size, np.dtype(np.float32), n_bytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    tiles = {name: random_blocks(format_named(name), TILE_BLOCKS) for name in ("Q4_K", "Q6_K")}
    with path.open("ab") as file:
        _pad(file)
        for i, (_, size, format) in enumerate(tensors):
            if len(size) == 1:
                file.write(np.ones(size, np.float32).tobytes())
            else:
                _write_tiled(file, tiles[format.name], _n_blocks(size, format), start=7919 * i % TILE_BLOCKS)
            _pad(file)


def random_blocks(format: BlockFormat, n: int) -> np.ndarray:
    """Blocks (n, block_bytes) uint8 of any integer format: every integer is random, the scales give WEIGHT_STD."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (n, format.block_bytes), np.uint8)
    records = blocks.view(format.layout)
    _set_scales(records, np.ones((n, 1), np.float16))
    std = format.dequantize(blocks[:1000].reshape(-1)).std()
    _set_scales(records, rng.choice(np.array([-1, 1]), (n, 1)) * np.float16(WEIGHT_STD / std))
    return blocks


def _set_scales(records: np.ndarray, scales: np.ndarray) -> None:
    """Set the float scales of blocks, `scales` (n, 1), and their minima with them."""
    for field, factor in (("d", 1.0), ("m", -MIN_OVER_SCALE), ("dmin", MIN_OVER_SCALE)):
        if field in (records.dtype.names or ()):
            records[field] = (scales * factor).reshape(records[field].shape)


def _add_metadata(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_name(shape.name)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_K_M)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(shape.n_layers)
    writer.add_context_length(shape.n_ctx)
    writer.add_embedding_length(shape.n_embd)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_heads)
    writer.add_head_count_kv(shape.n_kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(500000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.n_vocab)
    tokens = _tokens(shape.n_vocab)
    types = [gguf.TokenType.NORMAL] * (len(tokens) - 2) + [gguf.TokenType.CONTROL] * 2
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([f"{left} {right}" for left, right in MERGES])
    writer.add_bos_token_id(len(tokens) - 2)
    writer.add_eos_token_id(len(tokens) - 1)


def _tokens(n_vocab: int) -> list[str]:
    """The bytes as the letters that byte-level BPE writes them with, what the merges make, placeholders, two marks."""
    others = iter(range(0x100, 0x200))
    tokens = [chr(byte if byte in PRINTABLE else next(others)) for byte in range(256)]
    tokens += [left + right for left, right in MERGES]
    tokens += [f"placeholder{i}" for i in range(n_vocab - len(tokens) - 2)]
    return [*tokens, "<|begin_of_text|>", "<|end_of_text|>"]


def _n_blocks(size: tuple[int, ...], format: BlockFormat) -> int:
    assert size[-1] % format.block_size == 0, (size, format.name)
    return math.prod(size) // format.block_size


def _write_tiled(file: BinaryIO, tile: np.ndarray, n_blocks: int, start: int) -> None:
    while n_blocks:
        piece = tile[start : start + n_blocks]
        piece.tofile(file)
        n_blocks, start = n_blocks - len(piece), 0


def _pad(file: BinaryIO) -> None:
    file.write(bytes(-file.tell() % gguf.GGUF_DEFAULT_ALIGNMENT))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("file", type=Path, help="what to write")
    options = parser.parse_args()
    write_random_gguf(options.file, SHAPES[options.shape])


if __name__ == "__main__":
    main()
