"""How the KV cache can store keys and values: halfs, or 8 or 4 bits with a scale for every 32 values.

A block holds BLOCK_TOKENS tokens of every key/value head; the layouts are described in `kv_f16.py` and
`kv_bytes.py`, beside the code that reads and writes them.
"""

from dataclasses import dataclass

BLOCK_TOKENS = 64
"""Tokens in a block of the KV cache."""


@dataclass(frozen=True)
class KVType:
    """One way to store keys and values."""

    name: str
    key_bits: int
    value_bits: int

    @property
    def suffix(self) -> str:
        """Ends the names of the kernels of this type."""
        return "" if self.name == DEFAULT else f"-{self.name}"

    @property
    def divisor(self) -> int:
        """What the size of a head has to be a multiple of."""
        return 16 if self.key_bits == 16 else 32

    @property
    def turns_values(self) -> bool:
        """Whether values are stored multiplied with a Hadamard matrix."""
        return self.value_bits == 4

    def key_bytes(self, head_dim: int) -> int:
        """Bytes of the keys that a block holds of one head."""
        return head_dim * dim_bytes(self.key_bits)

    def value_bytes(self, head_dim: int) -> int:
        """Bytes of the values that a block holds of one head."""
        return head_dim * dim_bytes(self.value_bits)

    def block_bytes(self, head_dim: int) -> int:
        """Bytes that a block takes for one head."""
        return self.key_bytes(head_dim) + self.value_bytes(head_dim)


def dim_bytes(bits: int) -> int:
    """Bytes that a block takes for one dimension of one head, with the 32nd part of a scale in every token."""
    return BLOCK_TOKENS * bits // 8 + (BLOCK_TOKENS // 16 if bits < 16 else 0)


DEFAULT = "f16"

KV_TYPES = {
    kv.name: kv for kv in (KVType("f16", 16, 16), KVType("q8_0", 8, 8), KVType("q8_q4", 8, 4), KVType("q4_0", 4, 4))
}
"""From the finest to the coarsest."""
