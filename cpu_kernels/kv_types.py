"""How the KV cache can store keys and values: halfs, or bytes with a scale for every 32 values.

A block holds BLOCK_TOKENS tokens of every key/value head; the layouts are described in `kv_f16.py` and
`kv_q8_0.py`, beside the code that reads and writes them.
"""

from dataclasses import dataclass

BLOCK_TOKENS = 64
"""Tokens in a block of the KV cache."""


@dataclass(frozen=True)
class KVType:
    """One way to store keys and values."""

    name: str
    divisor: int  # of the size of a head
    dim_bytes: int  # that a block takes for one dimension of one head: 64 keys, or 64 values

    @property
    def suffix(self) -> str:
        """Ends the names of the kernels of this type."""
        return "" if self.name == DEFAULT else f"-{self.name}"

    def head_bytes(self, head_dim: int) -> int:
        """Bytes of the keys, or of the values, that a block holds of one head."""
        return head_dim * self.dim_bytes


DEFAULT = "f16"

KV_TYPES = {
    kv.name: kv for kv in (KVType("f16", 16, 2 * BLOCK_TOKENS), KVType("q8_0", 32, BLOCK_TOKENS + BLOCK_TOKENS // 16))
}
