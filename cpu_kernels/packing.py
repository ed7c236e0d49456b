"""Matrices in panels, made from the file once at load."""

from dataclasses import dataclass

import numpy as np

from llmrun.cpu_kernels.fields import PACK
from llmrun.cpu_kernels.op import FIRST_FIELD, RECORD_WORDS
from llmrun.cpu_kernels.team import Team
from llmrun.quant_formats.tensor import Tensor

FLOAT_FORMATS = ("F32", "F16", "BF16")
"""Formats that are multiplied as floats, with activations in the layout f32; the others take q16."""


def layout_of(format_name: str) -> str:
    """The layout of the activations that a format is multiplied with, see `activations.py`."""
    return "f32" if format_name in FLOAT_FORMATS else "q16"


def unpacked_bytes(n_columns: int) -> int:
    """Scratch of a thread for unpacked panels: what stays in the second cache beside the activations.

    It has room for at least one panel of the widest lanes and the largest groups (`weight_group.py`).
    """
    return max(512 << 10, 4 * 16 * (8 + 2) * (n_columns // 32))


@dataclass(frozen=True, eq=False)
class PackedMatrix:
    """A matrix of the model: its panels, and where the file keeps it."""

    format: str
    n_rows: int
    n_columns: int
    n_blocks: int  # of a row
    n_panels: int
    panels: np.ndarray  # uint8; empty where only the file's rows are read
    tensor: Tensor

    @property
    def address(self) -> int:
        """Of the first panel."""
        return self.panels.ctypes.data

    @property
    def file_address(self) -> int:
        """Of the first row in the file's layout."""
        return self.tensor.data.ctypes.data

    @property
    def row_bytes(self) -> int:
        """Bytes of a row in the file."""
        return self.tensor.rows_bytes

    @property
    def layout(self) -> str:
        """Name of the activation layout of the products."""
        return layout_of(self.format)


def unpacked(tensor: Tensor) -> PackedMatrix:
    """A matrix of which only single rows are read, in place."""
    rows, columns = tensor.shape
    blocks = columns // tensor.format.block_size
    return PackedMatrix(tensor.format.name, rows, columns, blocks, 0, np.empty(0, np.uint8), tensor)


def pack(team: Team, tensor: Tensor) -> PackedMatrix:
    """Rearrange a matrix (n_rows, n_columns) into panels on all threads; "pack-<format>" must be loaded."""
    rows, columns = tensor.shape
    lanes = team.library.isa.lanes
    blocks, panels = columns // tensor.format.block_size, -(-rows // lanes)
    size = panels * lanes * tensor.rows_bytes
    packed = _aligned(size)
    program = np.zeros((1, RECORD_WORDS), np.int64)
    program[0, 0] = team.library.address(f"pack-{tensor.format.name}")
    values = {"source": tensor.data.ctypes.data, "target": packed.ctypes.data, "n_rows": rows, "n_blocks": blocks}
    program[0, FIRST_FIELD : FIRST_FIELD + len(values)] = [values[name] for name in PACK._fields]
    team.run(program)
    return PackedMatrix(tensor.format.name, rows, columns, blocks, panels, packed, tensor)


def _aligned(size: int) -> np.ndarray:
    """Zeroed memory that begins on a cache line, with a line to spare behind it."""
    memory = np.empty(size + 128, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size]
