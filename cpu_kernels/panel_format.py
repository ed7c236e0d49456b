"""Weights in panels: the table row of a block format on the CPU.

A panel is as many rows of a matrix as a vector has lanes (R). Its blocks follow each other, and inside a block each
field of the file's block stands R times side by side, so that one load brings the same field of R rows:

    Q4_1 in the file, one row:    d m q0 q1 q2 q3          (halfs, and words of eight 4-bit weights)
    Q4_1 in a panel:              d x R | m x R | q0 x R | q1 x R | q2 x R | q3 x R

A panel takes exactly the bytes of its rows in the file.
"""

from collections.abc import Callable
from dataclasses import dataclass

from llmrun.cpu_kernels.activations import Layout
from llmrun.cpu_kernels.simd import Emitter, V


@dataclass(frozen=True)
class PanelFormat:
    """What the kernels need to know of a block format.

    `fields` lists the file's block in the order of the panel's: (offset, number of 4-byte words), or (offset, 0) for a
    2-byte field. `dot(s, acc, w, x)` adds the products of the block at `w` with each column of the record at `x`, in
    a fixed order of float operations that does not depend on the number of columns. `dequantise(source, target)`
    writes the weights of one block of the file as floats.
    """

    name: str
    block_size: int
    block_bytes: int
    layout: Layout
    fields: tuple[tuple[int, int], ...]
    dot: Callable[[Emitter, list[V], V, V], list[V]]
    dequantise: Callable
    bit_plane_field: int | None = None  # the field whose 32 bits are spread with `bit_planes` while packing
