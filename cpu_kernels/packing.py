"""Matrices in panels, made from the file once at load."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from llmrun.cpu_kernels.fields import PACK
from llmrun.cpu_kernels.large_pages import LargePages
from llmrun.cpu_kernels.op import FIRST_FIELD, RECORD_WORDS
from llmrun.cpu_kernels.team import Team
from llmrun.quant_formats.block_format import BlockFormat
from llmrun.quant_formats.mapped_file import forget_pages
from llmrun.quant_formats.tensor import Tensor

FLOAT_FORMATS = ("F32", "F16", "BF16")
"""Formats that are multiplied as floats, with activations in the layout f32; the others take q16."""


def layout_of(format_name: str) -> str:
    """The layout of the activations that a format is multiplied with, see `activations.py`."""
    return "f32" if format_name in FLOAT_FORMATS else "q16"


@dataclass(frozen=True)
class PanelSize:
    """The size of a panel in bytes, and where in it the words begin; see `panel_format.py`."""

    n_bytes: int
    words: int

    @classmethod
    def of(cls, format: BlockFormat, n_blocks: int, lanes: int) -> Self:
        """Of rows of `n_blocks` blocks."""
        fields = [kind for kind, *_ in format.layout.fields.values()] if format.layout.fields else [format.layout]
        half_bytes = sum(kind.itemsize for kind in fields if kind.itemsize == 2)
        words = _whole_lines(n_blocks * lanes * half_bytes)
        return cls(words + _whole_lines(n_blocks * lanes * (format.block_bytes - half_bytes)), words)


def _whole_lines(n_bytes: int) -> int:
    return -(-n_bytes // 64) * 64


@dataclass(frozen=True, eq=False)
class PackedMatrix:
    """A matrix of the model: its panels, and where the file keeps it."""

    format: str
    n_rows: int
    n_columns: int
    n_blocks: int  # of a row
    n_panels: int
    panel: PanelSize
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
    return PackedMatrix(tensor.format.name, rows, columns, blocks, 0, PanelSize(0, 0), np.empty(0, np.uint8), tensor)


SLICE_BYTES = 32 << 20
"""How much of a matrix is packed before the file's pages are given back: what loading takes beside the weights."""


def pack(team: Team, tensor: Tensor, memory: LargePages) -> PackedMatrix:
    """Rearrange a matrix (n_rows, n_columns) into panels on all threads; "pack-<format>" must be loaded.

    What stands behind the last row in its panel is never looked at.
    """
    rows, columns = tensor.shape
    lanes = team.library.isa.lanes
    blocks, panels = columns // tensor.format.block_size, -(-rows // lanes)
    panel = PanelSize.of(tensor.format, blocks, lanes)
    packed = memory.take(panels * panel.n_bytes)
    program = np.zeros((1, RECORD_WORDS), np.int64)
    program[0, 0] = team.library.address(f"pack-{tensor.format.name}")
    rows_at_once = max(1, SLICE_BYTES // (tensor.rows_bytes * lanes)) * lanes
    for first in range(0, rows, rows_at_once):
        source = tensor.data[first * tensor.rows_bytes : (first + rows_at_once) * tensor.rows_bytes]
        values = {
            "source": source.ctypes.data, "target": packed.ctypes.data + first // lanes * panel.n_bytes,
            "n_rows": min(rows_at_once, rows - first), "n_blocks": blocks, "panel_bytes": panel.n_bytes,
            "words": panel.words,
        }  # fmt: skip
        program[0, FIRST_FIELD : FIRST_FIELD + len(values)] = [values[name] for name in PACK._fields]
        team.run(program)
        forget_pages(source)  # only the packed copy is used from now on
    return PackedMatrix(tensor.format.name, rows, columns, blocks, panels, panel, packed, tensor)
