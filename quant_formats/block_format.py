"""What a format is: how many weights share a block, how the block lies in memory, and how to read it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

WEIGHTS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class BlockFormat:
    """One way of storing weights: a block of `block_size` weights takes the bytes of one `layout` record.

    Formats are listed by the family files (`float_formats`, `round_formats`, `k_formats`) and collected in `formats`.
    """

    name: str
    ggml_type: int  # the number of the format in GGUF files
    block_size: int  # weights per block
    layout: np.dtype  # the fields of a block in file order, little-endian and without padding
    unpack: Callable[[np.ndarray], np.ndarray]  # (n_blocks,) records -> (n_blocks, block_size) float32

    @property
    def block_bytes(self) -> int:
        """Bytes per block."""
        return self.layout.itemsize

    def dequantize(self, data: np.ndarray) -> np.ndarray:
        """Return the weights of whole blocks, exactly as the `gguf` package computes them.

        data: uint8 (n_blocks * block_bytes,), any alignment. Returns float32 (n_blocks * block_size,).
        """
        assert data.dtype == np.uint8, data.dtype
        assert data.shape == (data.size // self.block_bytes * self.block_bytes,), (self.name, data.shape)
        blocks = np.ascontiguousarray(data).view(self.layout)
        weights = np.empty((len(blocks), self.block_size), np.float32)
        # In pieces, so that the intermediate arrays of a big tensor stay in cache instead of taking gigabytes.
        step = max(1, WEIGHTS_AT_ONCE // self.block_size)
        with np.errstate(all="ignore"):  # scales may be inf or NaN; what comes out of them is then right
            for start in range(0, len(blocks), step):
                weights[start : start + step] = self.unpack(blocks[start : start + step])
        return weights.reshape(-1)
