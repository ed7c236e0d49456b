"""The keys and values of one sequence: which blocks hold them, and of which tokens they are."""

from collections.abc import Sequence as SequenceOf

from llmrun.runner.kv_cache import BLOCK_TOKENS, KVCache, blocks_for
from llmrun.runner.prefix_tree import Node, common_prefix


class BlockTable:
    """Token i of `tokens` has its keys and values in slot `i % BLOCK_TOKENS` of block `blocks[i // BLOCK_TOKENS]`.

    Blocks may be shared with other tables, with the prefix tree, which has all full ones, and with others. The table
    has a copy made of a shared one before it is written.

    Where the model keeps residuals, `residuals[i]` is the block with those of `blocks[i]`, for the blocks that the next
    token needs them of: the first one, and those of the run that this token is in. So a table can only go back to where
    it finds them, or else to the beginning of a run.
    """

    def __init__(self, kv_cache: KVCache) -> None:
        self.blocks: list[int] = []
        self.residuals: dict[int, int] = {}  # as `blocks`, these may reach further than `tokens`
        self.tokens: list[int] = []  # ids whose keys and values are computed; blocks may reach further
        self._kv_cache = kv_cache
        self._nodes: list[Node] = []  # of the full blocks in the prefix tree

    def missing_blocks(self, n_tokens: int, *, computes: bool = True) -> int:
        """Number of blocks to allocate before the table holds `n_tokens` tokens; see `reserve`."""
        n_residuals = len(self._missing_residuals(n_tokens)) if computes else 0
        return max(0, blocks_for(n_tokens) - len(self.blocks)) + n_residuals + len(self._shared_blocks())

    def reserve(self, n_tokens: int, *, computes: bool = True) -> bool:
        """Allocate blocks until there is room for `n_tokens` tokens, and the last one may be written.

        With `computes`, for the residuals that the next step writes too. Parked tables are emptied for it. False, with
        nothing allocated, if there are still not enough blocks.
        """
        while self.missing_blocks(n_tokens, computes=computes) > self._kv_cache.n_available:
            if not self._kv_cache.empty_parked():
                return False
        index = len(self.tokens) // BLOCK_TOKENS
        for block in self._shared_blocks():
            copied = self._kv_cache.copy(block)
            if block == self.blocks[index]:
                self.blocks[index] = copied
            else:
                self.residuals[index] = copied
        for i in self._missing_residuals(n_tokens) if computes else []:
            self.residuals[i] = self._kv_cache.allocate()
        while len(self.blocks) * BLOCK_TOKENS < n_tokens:
            self.blocks.append(self._kv_cache.allocate())
        return True

    def extend(self, tokens: SequenceOf[int]) -> None:
        """Record that the keys and values of `tokens` are now computed, after those already there."""
        self.tokens.extend(tokens)
        assert len(self.tokens) <= len(self.blocks) * BLOCK_TOKENS, "tokens were computed into blocks not reserved"
        while len(self.tokens) >= (len(self._nodes) + 1) * BLOCK_TOKENS:
            self._publish(len(self._nodes))
        for i in [i for i in self.residuals if 0 < i < self._first_of_run(len(self.tokens))]:
            self._kv_cache.release(self.residuals.pop(i))

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
        n_before, n_full = len(self.tokens), len(self._nodes)
        nodes = self._known_nodes(tokens)
        while len(nodes) > n_full and self._lacking(len(nodes) * BLOCK_TOKENS, nodes):
            nodes.pop()
        if len(nodes) == n_full:
            return 0
        del self.tokens[n_full * BLOCK_TOKENS :]
        for i in [i for i in self.residuals if i >= n_full]:  # written in part, or not at all
            self._kv_cache.release(self.residuals.pop(i))
        for i, node in enumerate(nodes[n_full:], n_full):
            self._put(i, node)
            self.tokens += node.tokens
        self._nodes = nodes
        self._settle_residuals(len(self.tokens))
        return len(self.tokens) - n_before

    def fork(self) -> "BlockTable":
        """Make a table with the same contents; it is parked, and shares all blocks until one of the two goes on."""
        other = BlockTable(self._kv_cache)
        other.blocks = self.blocks[: blocks_for(len(self.tokens))]
        other.residuals = {i: self.residuals[i] for i in self.needed_residuals(len(self.tokens))}
        for block in (*other.blocks, *other.residuals.values()):
            self._kv_cache.retain(block)
        other.tokens = self.tokens.copy()
        other._nodes = self._nodes.copy()
        self._kv_cache.park(other)
        return other

    def truncate(self, n_tokens: int) -> None:
        """Keep the first `n_tokens` tokens and release the blocks beyond them.

        Where residuals are not known that the next token would need, fewer: up to the beginning of its run.
        """
        lacking = self._lacking(n_tokens, self._nodes)
        if lacking:
            n_tokens = 0 if 0 in lacking else self._first_of_run(n_tokens) * BLOCK_TOKENS
        self._settle_residuals(n_tokens)
        del self.tokens[n_tokens:]
        del self._nodes[n_tokens // BLOCK_TOKENS :]
        while len(self.blocks) > blocks_for(n_tokens):  # the last one first; see PrefixTree
            self._kv_cache.release(self.blocks.pop())

    def forget_shared_part(self) -> None:
        """Give up the tokens of a last, partial block that is shared, because there is no room for a copy of it."""
        if self._shared_blocks():
            self.truncate(len(self.tokens) // BLOCK_TOKENS * BLOCK_TOKENS)

    def release(self) -> None:
        """Forget everything and release every block."""
        self._kv_cache.unpark(self)
        self.truncate(0)

    def needed_residuals(self, n_tokens: int) -> list[int]:
        """Indices of the blocks whose residuals the token after the first `n_tokens` reads."""
        if n_tokens == 0 or not self._kv_cache.residual_blocks:
            return []
        first = self._first_of_run(n_tokens)
        return [*([0] if first else []), *range(first, blocks_for(n_tokens))]

    def lacking_residuals(self) -> list[int]:
        """Indices of those that are not known, after blocks were filled without."""
        return self._lacking(len(self.tokens), self._nodes)

    def give_residual(self, index: int, block: int) -> None:
        """Take over a block, of which the caller is the one holder, with the residuals of blocks[index]."""
        self.residuals[index] = block
        if index < len(self._nodes):
            self._kv_cache.publish_residual(self._nodes[index], block)

    def _known_nodes(self, tokens: SequenceOf[int]) -> list[Node]:
        """The nodes of the full blocks of `tokens`, as far as the prefix tree has them."""
        nodes = self._nodes.copy()
        while (end := (len(nodes) + 1) * BLOCK_TOKENS) <= len(tokens):
            parent = nodes[-1] if nodes else self._kv_cache.tree.root
            node = parent.children.get(tuple(tokens[end - BLOCK_TOKENS : end]))
            if node is None:
                break
            nodes.append(node)
        return nodes

    def _take_part(self, tokens: SequenceOf[int]) -> None:
        """Share the beginning of a full block that goes on with `tokens` for longer than the table does."""
        index = len(self._nodes)
        start = index * BLOCK_TOKENS
        rest = tuple(tokens[start : start + BLOCK_TOKENS])
        part = self._kv_cache.tree.longest_part(self._last_node(), rest) if rest else None
        if part is None or start + part.n_tokens <= len(self.tokens):
            return
        if self._kv_cache.residual_blocks:
            if part.node.residual is None:
                return
            self._put_residual(index, part.node)
        self._put(index, part.node)
        self.tokens[start:] = rest[: part.n_tokens]

    def _shared_blocks(self) -> list[int]:
        """Blocks that the next token would be written into, and that somebody else holds too."""
        index, n_used = divmod(len(self.tokens), BLOCK_TOKENS)
        if n_used == 0:
            return []
        written = [self.blocks[index], *([self.residuals[index]] if index in self.residuals else [])]
        return [block for block in written if self._kv_cache.is_shared(block)]

    def _publish(self, index: int) -> None:
        tokens = tuple(self.tokens[index * BLOCK_TOKENS : (index + 1) * BLOCK_TOKENS])
        node = self._kv_cache.publish(self._last_node(), tokens, self.blocks[index])
        self.blocks[index] = node.block
        self._nodes.append(node)
        if index in self.residuals:
            self._kv_cache.publish_residual(node, self.residuals[index])

    def _last_node(self) -> Node:
        return self._nodes[-1] if self._nodes else self._kv_cache.tree.root

    def _put(self, index: int, node: Node) -> None:
        """Hold a known block in place of the one that is there, if there is one."""
        self._kv_cache.retain(node.block)
        if index < len(self.blocks):
            self._kv_cache.release(self.blocks[index])
            self.blocks[index] = node.block
        else:
            self.blocks.append(node.block)

    def _put_residual(self, index: int, node: Node) -> None:
        """Hold the known residuals of a block in place of those that are there, if there are any."""
        assert node.residual is not None, "residuals that nobody has"
        self._kv_cache.retain(node.residual)
        if index in self.residuals:
            self._kv_cache.release(self.residuals[index])
        self.residuals[index] = node.residual

    def _settle_residuals(self, n_tokens: int) -> None:
        """Hold those that the token after `n_tokens` reads, and no others."""
        needed = self.needed_residuals(n_tokens)
        for i in needed:
            if i not in self.residuals:
                self._put_residual(i, self._nodes[i])
        for i in [i for i in self.residuals if i not in needed]:
            self._kv_cache.release(self.residuals.pop(i))

    def _first_of_run(self, n_tokens: int) -> int:
        """Index of the first block of the run that the token after `n_tokens` is in; 0 without residuals."""
        n = self._kv_cache.residual_blocks
        return n_tokens // (n * BLOCK_TOKENS) * n if n else 0

    def _lacking(self, n_tokens: int, nodes: list[Node]) -> list[int]:
        """Blocks whose residuals the token after `n_tokens` reads, and that neither the table has nor these nodes."""
        n_full = len(self._nodes)  # of further blocks, the table's own residuals do not reach far enough
        return [
            i
            for i in self.needed_residuals(n_tokens)
            if (i not in self.residuals or n_full <= i < len(nodes)) and (i >= len(nodes) or nodes[i].residual is None)
        ]

    def _missing_residuals(self, n_tokens: int) -> list[int]:
        """Blocks that the next step may write, and that there is no room for the residuals of."""
        if not self._kv_cache.residual_blocks:
            return []
        end = blocks_for(min(n_tokens, len(self.tokens) + self._kv_cache.step_tokens))
        return [i for i in range(len(self.tokens) // BLOCK_TOKENS, end) if i not in self.residuals]
