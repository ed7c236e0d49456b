"""The keys and values of one sequence: which blocks hold them, and of which tokens they are."""

from collections.abc import Sequence as SequenceOf

from llmrun.runner.kv_cache import BLOCK_TOKENS, KVCache, blocks_for


class BlockTable:
    """Token i of `tokens` has its keys and values in slot `i % BLOCK_TOKENS` of block `blocks[i // BLOCK_TOKENS]`."""

    def __init__(self, kv_cache: KVCache) -> None:
        self._kv_cache = kv_cache
        self.blocks: list[int] = []
        self.tokens: list[int] = []  # ids whose keys and values are computed; blocks may reach further

    def missing_blocks(self, n_tokens: int) -> int:
        """Number of blocks to allocate before the table holds `n_tokens` tokens."""
        return max(0, blocks_for(n_tokens) - len(self.blocks))

    def reserve(self, n_tokens: int) -> None:
        """Allocate blocks until the table holds `n_tokens` tokens."""
        while len(self.blocks) < blocks_for(n_tokens):
            self.blocks.append(self._kv_cache.allocate())

    def extend(self, tokens: SequenceOf[int]) -> None:
        """Record that the keys and values of `tokens` are now computed, after those already there."""
        self.tokens.extend(tokens)
        assert len(self.tokens) <= len(self.blocks) * BLOCK_TOKENS, "tokens were computed into blocks not reserved"

    def keep_common_prefix(self, tokens: SequenceOf[int]) -> int:
        """Forget everything from the first id that differs from `tokens`; returns how many ids remain."""
        n_common = 0
        for cached, wanted in zip(self.tokens, tokens, strict=False):
            if cached != wanted:
                break
            n_common += 1
        self.truncate(n_common)
        return n_common

    def truncate(self, n_tokens: int) -> None:
        """Keep the first `n_tokens` tokens and free the blocks beyond them."""
        del self.tokens[n_tokens:]
        while len(self.blocks) > blocks_for(n_tokens):
            self._kv_cache.free(self.blocks.pop())

    def release(self) -> None:
        """Forget everything and free every block."""
        self.truncate(0)
