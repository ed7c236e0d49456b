"""The keys and values of one sequence: which blocks hold them, and of which tokens they are."""

from collections.abc import Sequence as SequenceOf

from llmrun.runner.kv_cache import BLOCK_TOKENS, KVCache, blocks_for
from llmrun.runner.prefix_tree import Node, common_prefix


class BlockTable:
    """Token i of `tokens` has its keys and values in slot `i % BLOCK_TOKENS` of block `blocks[i // BLOCK_TOKENS]`.

    Blocks may be shared with other tables, with the prefix tree, which has all full ones, and with others. The table
    has a copy made of a shared one before it is written.
    """

    def __init__(self, kv_cache: KVCache) -> None:
        self.blocks: list[int] = []
        self.tokens: list[int] = []  # ids whose keys and values are computed; blocks may reach further
        self._kv_cache = kv_cache
        self._nodes: list[Node] = []  # of the full blocks in the prefix tree

    def missing_blocks(self, n_tokens: int) -> int:
        """Number of blocks to allocate before the table holds `n_tokens` tokens."""
        return max(0, blocks_for(n_tokens) - len(self.blocks)) + self._must_copy()

    def reserve(self, n_tokens: int) -> bool:
        """Allocate blocks until there is room for `n_tokens` tokens, and the last one may be written.

        Parked tables are emptied for it. False, with nothing allocated, if there are still not enough blocks.
        """
        while self.missing_blocks(n_tokens) > self._kv_cache.n_available:
            if not self._kv_cache.empty_parked():
                return False
        if self._must_copy():
            index = len(self.tokens) // BLOCK_TOKENS
            self.blocks[index] = self._kv_cache.copy(self.blocks[index])
        while len(self.blocks) * BLOCK_TOKENS < n_tokens:
            self.blocks.append(self._kv_cache.allocate())
        return True

    def extend(self, tokens: SequenceOf[int]) -> None:
        """Record that the keys and values of `tokens` are now computed, after those already there."""
        self.tokens.extend(tokens)
        assert len(self.tokens) <= len(self.blocks) * BLOCK_TOKENS, "tokens were computed into blocks not reserved"
        while len(self.tokens) >= (len(self._nodes) + 1) * BLOCK_TOKENS:
            self._publish(len(self._nodes))

    def reuse(self, tokens: SequenceOf[int]) -> int:
        """Hold as much of `tokens` as is known, here or in the prefix tree, and nothing else; returns how many ids."""
        self.truncate(common_prefix(self.tokens, list(tokens)))
        self.catch_up(tokens)
        self._take_part(tokens)
        return len(self.tokens)

    def catch_up(self, tokens: SequenceOf[int]) -> int:
        """Take over full blocks of `tokens`, which begin with those of the table, that others have computed.

        Returns how many ids were gained.
        """
        n_before = len(self.tokens)
        while (end := (len(self._nodes) + 1) * BLOCK_TOKENS) <= len(tokens):
            node = self._last_node().children.get(tuple(tokens[end - BLOCK_TOKENS : end]))
            if node is None:
                break
            self._put(len(self._nodes), node.block)
            self.tokens[end - BLOCK_TOKENS :] = node.tokens
            self._nodes.append(node)
        return len(self.tokens) - n_before

    def fork(self) -> "BlockTable":
        """Make a table with the same contents; it is parked, and shares all blocks until one of the two goes on."""
        other = BlockTable(self._kv_cache)
        for block in self.blocks[: blocks_for(len(self.tokens))]:
            self._kv_cache.retain(block)
            other.blocks.append(block)
        other.tokens = self.tokens.copy()
        other._nodes = self._nodes.copy()
        self._kv_cache.park(other)
        return other

    def truncate(self, n_tokens: int) -> None:
        """Keep the first `n_tokens` tokens and release the blocks beyond them."""
        del self.tokens[n_tokens:]
        del self._nodes[n_tokens // BLOCK_TOKENS :]
        while len(self.blocks) > blocks_for(n_tokens):  # the last one first; see PrefixTree
            self._kv_cache.release(self.blocks.pop())

    def forget_shared_part(self) -> None:
        """Give up the tokens of a last, partial block that is shared, because there is no room for a copy of it."""
        if self._must_copy():
            self.truncate(len(self.tokens) // BLOCK_TOKENS * BLOCK_TOKENS)

    def release(self) -> None:
        """Forget everything and release every block."""
        self._kv_cache.unpark(self)
        self.truncate(0)

    def _must_copy(self) -> bool:
        """Whether the next token would be written into a block that somebody else holds too."""
        index, n_used = divmod(len(self.tokens), BLOCK_TOKENS)
        return n_used > 0 and self._kv_cache.is_shared(self.blocks[index])

    def _take_part(self, tokens: SequenceOf[int]) -> None:
        """Share the beginning of a full block that goes on with `tokens` for longer than the table does."""
        start = len(self._nodes) * BLOCK_TOKENS
        rest = tuple(tokens[start : start + BLOCK_TOKENS])
        part = self._kv_cache.tree.longest_part(self._last_node(), rest) if rest else None
        if part is not None and start + part.n_tokens > len(self.tokens):
            self._put(len(self._nodes), part.block)
            self.tokens[start:] = rest[: part.n_tokens]

    def _publish(self, index: int) -> None:
        tokens = tuple(self.tokens[index * BLOCK_TOKENS : (index + 1) * BLOCK_TOKENS])
        node = self._kv_cache.publish(self._last_node(), tokens, self.blocks[index])
        self.blocks[index] = node.block
        self._nodes.append(node)

    def _last_node(self) -> Node:
        return self._nodes[-1] if self._nodes else self._kv_cache.tree.root

    def _put(self, index: int, block: int) -> None:
        """Hold a known block in place of the one that is there, if there is one."""
        self._kv_cache.retain(block)
        if index < len(self.blocks):
            self._kv_cache.release(self.blocks[index])
            self.blocks[index] = block
        else:
            self.blocks.append(block)
