"""The pool of KV blocks: which are free, how many hold each of the others, which are only kept in case of use."""

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from llmrun.runner.prefix_tree import Node, PrefixTree

if TYPE_CHECKING:
    from llmrun.runner.block_table import BlockTable

BLOCK_TOKENS = 64  # tokens whose keys and values one block holds


def blocks_for(n_tokens: int) -> int:
    """Number of blocks that hold `n_tokens` tokens."""
    return -(-n_tokens // BLOCK_TOKENS)


class KVCache:
    """Bookkeeping over block ids 0..n_blocks-1; the memory behind them belongs to the model.

    A block is free again when the last of its holders has released it: block tables, the prefix tree, and anybody who
    called `retain`. A block with several holders is never written; who wants to gets a copy. The prefix tree holds
    every full block, and gives up the one that is unused for the longest when there is no free one.

    A block table that nobody computes with, such as that of a chat between two turns, is parked. It holds its blocks
    until somebody else needs them; then the table parked longest ago is emptied. Its full blocks stay in the tree for
    as long as they can, and so it is only the last, partial one that is lost at once.

    Belongs to the thread of its engine.
    """

    def __init__(
        self, n_blocks: int, copy_block: Callable[[int, int], None], residual_blocks: int = 0, step_tokens: int = 0
    ) -> None:
        """`copy_block(source, target)` copies the contents of a block; see `Model.copy_kv`.

        residual_blocks: blocks in a run, of a model that keeps residuals; see `Model.residual_blocks`. step_tokens:
        most tokens of a sequence in a step, which is how far ahead residuals need room.
        """
        assert n_blocks > 0
        self.residual_blocks, self.step_tokens = residual_blocks, step_tokens
        self.n_blocks = n_blocks
        self.tree = PrefixTree()
        self.on_shortage: list[Callable[[], None]] = []
        """Called when a request can go on only if those who called `retain` release what they can do without."""
        self._copy_block = copy_block
        self._holders = [0] * n_blocks
        self._free = list(
            range(n_blocks - 1, -1, -1)
        )  # a stack: low ids first, so that a short run touches little memory
        self._parked: OrderedDict[BlockTable, None] = OrderedDict()  # oldest first

    @property
    def n_free(self) -> int:
        """Number of blocks that hold nothing."""
        return len(self._free)

    @property
    def n_cached(self) -> int:
        """Number of blocks in the prefix tree."""
        return len(self.tree)

    @property
    def n_available(self) -> int:
        """Number of blocks that `allocate` can hand out: free ones, and those that only the tree holds."""
        return len(self._free) + self.tree.n_idle

    def allocate(self) -> int:
        """Take a block out of the pool, with the caller as its one holder."""
        if not self._free:
            self._evict()
        block = self._free.pop()
        self._holders[block] = 1
        return block

    def retain(self, block: int) -> None:
        """Add a holder to a block that has one."""
        assert self._holders[block] > 0, "a block without a holder may be anybody's"
        self._holders[block] += 1
        self.tree.set_held(block)

    def release(self, block: int) -> None:
        """Take a holder away; a block without any is free."""
        n_holders = self._holders[block] - 1
        assert n_holders >= 0, "a block was released twice"
        self._holders[block] = n_holders
        if n_holders == 0:
            self._free.append(block)
        elif n_holders == 1 and block in self.tree:
            self.tree.set_idle(block)

    def is_shared(self, block: int) -> bool:
        """Whether a block has more than one holder."""
        return self._holders[block] > 1

    def copy(self, block: int) -> int:
        """Turn a caller's hold on a block into one on a copy of it, which is the caller's alone."""
        copied = self.allocate()
        self._copy_block(block, copied)
        self.release(block)
        return copied

    def publish(self, parent: Node, tokens: tuple[int, ...], block: int) -> Node:
        """Put a full block into the prefix tree, below the node of the one before it; returns its node.

        If another block holds the same already, the caller's hold moves to that one.
        """
        known = parent.children.get(tokens)
        if known is not None:
            self.retain(known.block)
            self.release(block)
            return known
        self.retain(block)
        return self.tree.add(parent, tokens, block)

    def publish_residual(self, node: Node, residual: int) -> None:
        """Have the prefix tree hold the block with the residuals of a full block, if it has none yet."""
        if node.residual is None:
            self.retain(residual)
            self.tree.add_residual(node, residual)

    def park(self, table: "BlockTable") -> None:
        """Let the blocks of a table go to whoever needs them, from now on."""
        table.truncate(len(table.tokens))
        self._parked[table] = None
        self._parked.move_to_end(table)

    def unpark(self, table: "BlockTable") -> None:
        """Protect the contents of a table again; it may have been emptied in between."""
        self._parked.pop(table, None)

    def empty_parked(self) -> bool:
        """Empty the table that was parked longest ago; False if there is none."""
        if not self._parked:
            return False
        next(iter(self._parked)).release()
        return True

    def clear(self) -> None:
        """Forget all that is only kept in case of use."""
        while self.empty_parked():
            pass
        while self.tree.n_idle:
            self._evict()

    def _evict(self) -> None:
        assert self.tree.n_idle, "out of KV blocks: the scheduler must look at n_available first"
        for block in self.tree.evict():
            self.release(block)
