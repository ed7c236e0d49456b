"""Which block holds which ids: the full blocks that are computed, found by the ids that lead to them."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple


class Node:
    """A full block: its ids, and the blocks known to follow it. The root has neither ids nor a block.

    `residual` is the block with its residuals, if they are known too.
    """

    __slots__ = ("block", "children", "parent", "residual", "tokens")

    def __init__(self, parent: "Node | None", tokens: tuple[int, ...], block: int) -> None:
        self.parent = parent
        self.tokens = tokens
        self.block = block
        self.residual: int | None = None
        self.children: dict[tuple[int, ...], Node] = {}


class Part(NamedTuple):
    """The first `n_tokens` tokens of a block."""

    node: Node
    n_tokens: int


class PrefixTree:
    """The path from the root to a node spells the ids of a prompt, a block at a time.

    Keys and values depend on all ids before them, so a block serves every sequence that begins with the ids of its
    path, and no other. Who holds a block of the tree holds those above it too. So the blocks that only the tree holds,
    the idle ones, have idle blocks below them alone, and these have been idle for longer: tables let go of their last
    block first. The one that is idle for the longest is therefore a leaf.

    Residuals are there for whoever goes on in the middle of a run. They are the first to go, because the blocks without
    them still serve all that go on after the run; but a first block is of no use without its own.
    """

    def __init__(self) -> None:
        self.root = Node(None, (), -1)
        self._nodes: dict[int, Node] = {}  # by block
        self._idle: OrderedDict[int, None] = OrderedDict()  # blocks, the one that is idle for the longest first
        self._owners: dict[int, Node] = {}  # of the blocks with residuals
        self._idle_residuals: OrderedDict[int, None] = OrderedDict()  # as `_idle`

    def __len__(self) -> int:
        return len(self._nodes)

    def __contains__(self, block: int) -> bool:
        return block in self._nodes or block in self._owners

    @property
    def n_idle(self) -> int:
        """Number of blocks that only the tree holds."""
        return len(self._idle) + len(self._idle_residuals)

    def add(self, parent: Node, tokens: tuple[int, ...], block: int) -> Node:
        """Make the node of a block that holds `tokens` and follows `parent`, where there is none yet."""
        assert tokens not in parent.children, "two blocks of the tree would hold the same"
        assert block not in self._nodes, "a block is in the tree once"
        node = parent.children[tokens] = self._nodes[block] = Node(parent, tokens, block)
        return node

    def add_residual(self, node: Node, residual: int) -> None:
        """Note the block with the residuals of a node that has none yet."""
        assert node.residual is None, "the residuals of a block are in one place"
        node.residual = residual
        self._owners[residual] = node

    def longest_part(self, parent: Node, tokens: Sequence[int]) -> Part | None:
        """The block that follows `parent` and begins with most of `tokens`; None if none begins with the first."""
        parts = [
            Part(child, common_prefix(child.tokens, tokens))
            for child in parent.children.values()
            if child.tokens[0] == tokens[0]
        ]
        return max(parts, key=lambda part: part.n_tokens, default=None)

    def set_idle(self, block: int) -> None:
        """Note that from now on only the tree holds a block."""
        (self._idle if block in self._nodes else self._idle_residuals)[block] = None

    def set_held(self, block: int) -> None:
        """Note that somebody holds a block again."""
        self._idle.pop(block, None)
        self._idle_residuals.pop(block, None)

    def evict(self) -> list[int]:
        """Take out residuals, or the block that is idle for the longest, and what is below it; returns the blocks.

        Nothing is below it, unless somebody held a single block for a while.
        """
        inner = (r for r in self._idle_residuals if self._owners[r].parent is not self.root or not self._idle)
        residual = next(inner, None)
        if residual is not None:
            self._forget_residual(self._owners[residual])
            return [residual]
        block, _ = self._idle.popitem(last=False)
        top = self._nodes[block]
        assert top.parent is not None
        del top.parent.children[top.tokens]
        evicted, below = [], [top]
        while below:
            node = below.pop()
            below += node.children.values()
            evicted.append(node.block)
            if node.residual is not None:
                evicted.append(node.residual)
                self._forget_residual(node)
            del self._nodes[node.block]
            self._idle.pop(node.block, None)
        return evicted

    def _forget_residual(self, node: Node) -> None:
        assert node.residual is not None
        self._idle_residuals.pop(node.residual, None)
        del self._owners[node.residual]
        node.residual = None


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Number of ids that two sequences of one type begin with alike."""
    n = min(len(a), len(b))
    start = 0
    while start < n and a[start : start + 256] == b[start : start + 256]:  # far faster than one id at a time
        start += 256
    for i in range(min(start, n), n):
        if a[i] != b[i]:
            return i
    return n
