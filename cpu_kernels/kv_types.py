"""How the KV cache can store keys and values: halfs, or 8 or 4 bits with a scale for every 32 values.

A block holds BLOCK_TOKENS tokens of every key/value head; the layouts are described in `kv_f16.py` and
`kv_bytes.py`, beside the code that reads and writes them.

Four bits are too few for the keys that matter most: those of the last tokens, and of the first. So a type with
residuals keeps, in a second block of the same layout, what the four bits leave of each key and value, for the first
block of a sequence and for the run of RUN_BLOCKS blocks that its next token is in. A token reads the residuals of the
first block and of its own run up to itself, and of no other. That depends on its position alone, so its attention is
the same however it comes to be computed.
"""

from dataclasses import dataclass

BLOCK_TOKENS = 64
"""Tokens in a block of the KV cache."""

RUN_BLOCKS = 4
"""Blocks in a run, counted from the beginning of the sequence: their values are summed up as one partial result."""


@dataclass(frozen=True)
class KVType:
    """One way to store keys and values."""

    name: str
    bits: int

    @property
    def suffix(self) -> str:
        """Ends the names of the kernels of this type."""
        return "" if self.name == DEFAULT else f"-{self.name}"

    @property
    def divisor(self) -> int:
        """What the size of a head has to be a multiple of."""
        return 16 if self.bits == 16 else 32

    @property
    def has_residuals(self) -> bool:
        """Whether what the bits leave is kept too, of the first and the last tokens."""
        return self.bits == 4

    @property
    def residual_blocks(self) -> int:
        """Blocks in a run whose residuals are kept, besides those of the first block."""
        return RUN_BLOCKS if self.has_residuals else 0

    @property
    def turns_values(self) -> bool:
        """Whether values are stored multiplied with a Hadamard matrix."""
        return self.bits == 4

    def head_bytes(self, head_dim: int) -> int:
        """Bytes of the keys, or of the values, that a block holds of one head."""
        return head_dim * self.dim_bytes

    @property
    def dim_bytes(self) -> int:
        """The same of one dimension, with the 32nd part of a scale in every token."""
        return BLOCK_TOKENS * self.bits // 8 + (BLOCK_TOKENS // 16 if self.bits < 16 else 0)


DEFAULT = "f16"

KV_TYPES = {kv.name: kv for kv in (KVType("f16", 16), KVType("q8_0", 8), KVType("q4_0", 4))}
"""From the finest to the coarsest."""
