"""The pool of KV blocks: which are free, which are in use, which are kept only in case they are useful again."""

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmrun.runner.block_table import BlockTable

BLOCK_TOKENS = 64  # tokens whose keys and values one block holds


def blocks_for(n_tokens: int) -> int:
    """Number of blocks that hold `n_tokens` tokens."""
    return -(-n_tokens // BLOCK_TOKENS)


class KVCache:
    """Bookkeeping over block ids 0..n_blocks-1; the memory behind them belongs to the model.

    A block table that nobody computes with at the moment, such as that of a chat between two turns, is parked: its
    blocks stay until somebody else needs them, and then the table parked longest ago is emptied.
    """

    def __init__(self, n_blocks: int) -> None:
        assert n_blocks > 0
        self.n_blocks = n_blocks
        self._free = list(
            range(n_blocks - 1, -1, -1)
        )  # a stack: low ids first, so that a short run touches little memory
        self._parked: OrderedDict[BlockTable, None] = OrderedDict()  # oldest first

    @property
    def n_free(self) -> int:
        """Number of blocks that hold nothing."""
        return len(self._free)

    @property
    def n_available(self) -> int:
        """Number of blocks that `allocate` can still hand out: free ones and those of parked tables."""
        return len(self._free) + sum(len(table.blocks) for table in self._parked)

    def allocate(self) -> int:
        """Take a block out of the pool, emptying the table parked longest ago if there is no free one."""
        while not self._free:
            assert self._parked, "out of KV blocks: the scheduler must look at n_available first"
            oldest, _ = self._parked.popitem(last=False)
            oldest.release()
        return self._free.pop()

    def free(self, block: int) -> None:
        """Put a block back into the pool."""
        assert 0 <= block < self.n_blocks
        assert len(self._free) < self.n_blocks, "a block was freed twice"
        self._free.append(block)

    def park(self, table: "BlockTable") -> None:
        """Keep the contents of `table` for as long as nobody needs its blocks."""
        self._parked[table] = None
        self._parked.move_to_end(table)

    def unpark(self, table: "BlockTable") -> None:
        """Protect the contents of `table` again; it may have been emptied in between."""
        self._parked.pop(table, None)
