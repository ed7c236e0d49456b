"""Blocks: shared, copied before they are written, kept for later, and free when nobody holds them."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from llmrun.runner.block_table import BlockTable
from llmrun.runner.kv_cache import BLOCK_TOKENS, KVCache, blocks_for
from llmrun.runner.prefix_tree import PrefixTree, common_prefix


class Pool(KVCache):
    """A cache with its memory: the ids whose keys and values each slot would hold."""

    def __init__(self, n_blocks: int) -> None:
        super().__init__(n_blocks, self.copy_memory)
        self.memory = [[-1] * BLOCK_TOKENS for _ in range(n_blocks)]
        self.n_copies = 0

    def copy_memory(self, source: int, target: int) -> None:
        self.memory[target] = self.memory[source].copy()
        self.n_copies += 1

    def compute(self, table: BlockTable, tokens: list[int]) -> bool:
        """Append tokens to a table, if there are blocks for them."""
        start = len(table.tokens)
        if not table.reserve(start + len(tokens)):
            return False
        for position, token in enumerate(tokens, start):
            self.memory[table.blocks[position // BLOCK_TOKENS]][position % BLOCK_TOKENS] = token
        table.extend(tokens)
        return True

    def table(self, tokens: list[int]) -> BlockTable:
        """Make a table that holds what is known of `tokens`, and computes the rest."""
        table = BlockTable(self)
        table.reuse(tokens)
        assert self.compute(table, tokens[len(table.tokens) :])
        return table

    def contents(self, table: BlockTable) -> list[int]:
        return [token for block in table.blocks for token in self.memory[block]][: len(table.tokens)]


def numbers(start: int, n: int) -> list[int]:
    return list(range(start, start + n))


def test_tables_grow_and_shrink_by_whole_blocks() -> None:
    pool = Pool(10)
    table = pool.table(numbers(0, BLOCK_TOKENS + 1))
    assert (len(table.blocks), pool.n_free, pool.n_cached) == (2, 8, 1)
    assert table.reuse([*range(BLOCK_TOKENS), -1]) == BLOCK_TOKENS
    assert (len(table.blocks), pool.n_free) == (1, 9)
    table.truncate(3)
    assert (table.tokens, len(table.blocks)) == ([0, 1, 2], 1)
    table.release()
    assert (pool.n_free, pool.n_available) == (9, 10)
    pool.clear()
    assert (pool.n_free, pool.n_cached) == (10, 0)
    with pytest.raises(AssertionError):
        table.extend([1])


def test_full_blocks_are_found_again_and_shared() -> None:
    pool = Pool(10)
    first = pool.table(numbers(0, 200))
    second = BlockTable(pool)
    assert second.reuse([*numbers(0, 150), -1]) == 150  # of the third block a part
    assert second.blocks == first.blocks[:3]
    first.release()
    assert pool.contents(second) == numbers(0, 150)
    assert BlockTable(pool).reuse([-1, *numbers(1, 199)]) == 0


def test_of_several_blocks_the_one_that_goes_on_for_longest_is_shared() -> None:
    pool = Pool(10)
    prompts = [numbers(0, 64 + n) + numbers(1000 * n, 64 - n) for n in (5, 40, 20)]
    for prompt in prompts:
        pool.table(prompt).release()
    table = BlockTable(pool)
    assert table.reuse(numbers(0, 200)) == 64 + 40
    assert table.reuse(numbers(0, 64 + 30)) == 64 + 30
    assert table.reuse(numbers(0, 64)) == 64


def test_a_shared_block_is_copied_before_it_is_written() -> None:
    pool = Pool(10)
    table = pool.table(numbers(0, 100))
    other = table.fork()
    assert other.blocks == table.blocks
    assert table.missing_blocks(101) == 1
    pool.compute(table, [7])
    assert (pool.n_copies, table.missing_blocks(102)) == (1, 0)
    pool.compute(table, [8])
    pool.compute(other, [9])
    assert pool.n_copies == 1  # the other one has the first block of the two for itself now
    assert pool.contents(table) == [*numbers(0, 100), 7, 8]
    assert pool.contents(other) == [*numbers(0, 100), 9]
    assert (table.blocks[0], pool.n_cached) == (other.blocks[0], 1)


def test_an_edit_in_the_middle_leaves_what_was_there() -> None:
    pool = Pool(10)
    table = pool.table(numbers(0, 150))
    table.truncate(30)
    pool.compute(table, [-1] * 100)
    assert pool.n_copies == 1
    assert BlockTable(pool).reuse(numbers(0, 150)) == 128
    assert pool.contents(table) == [*numbers(0, 30), *[-1] * 100]


def test_what_two_compute_at_the_same_time_is_kept_once() -> None:
    pool = Pool(10)
    tables = [BlockTable(pool) for _ in range(2)]
    for table in tables:
        pool.compute(table, numbers(0, 60))
    for table in tables:
        pool.compute(table, numbers(60, 10))
    assert tables[0].blocks[0] == tables[1].blocks[0]
    assert pool.n_free == 10 - 3


def test_a_table_catches_up_with_another() -> None:
    pool = Pool(10)
    table = pool.table(numbers(0, 70))
    table.reserve(250)
    other = pool.table(numbers(0, 200))
    assert table.catch_up(numbers(0, 199)) == 3 * BLOCK_TOKENS - 70
    assert table.blocks[:3] == other.blocks[:3]
    assert (len(table.blocks), pool.contents(table)) == (4, numbers(0, 192))
    assert table.catch_up(numbers(0, 199)) == 0


def test_leaves_go_first_and_of_these_the_one_used_longest_ago() -> None:
    pool = Pool(6)
    prompts = [[*numbers(0, 64), *[n] * 64] for n in (1000, 2000)]
    for prompt in (*prompts, prompts[0]):
        pool.table(prompt).release()
    assert (pool.n_cached, pool.n_free) == (3, 3)

    def known() -> list[int]:
        """How much of each prompt is known, without a hold on it."""
        tables = [BlockTable(pool) for _ in prompts]
        found = [table.reuse(prompt) for table, prompt in zip(tables, prompts, strict=True)]
        for table in reversed(tables):  # so that the first is the last to be let go, as before
            table.release()
        return found

    assert known() == [128, 128]
    for wanted in ([128, 64], [64, 64], [0, 0]):
        taken = [pool.allocate() for _ in range(pool.n_free + 1)]
        for block in taken:
            pool.release(block)
        assert known() == wanted


def test_parked_tables_lose_only_their_last_block_at_once() -> None:
    pool = Pool(4)
    first, second = pool.table(numbers(0, 100)), pool.table(numbers(1000, 100))
    pool.park(first)
    pool.park(second)
    assert BlockTable(pool).reserve(1)
    assert (first.tokens, len(second.tokens), pool.n_cached) == ([], 100, 2)
    assert first.reuse(numbers(0, 100)) == 64


def test_a_table_that_is_in_use_is_safe() -> None:
    pool = Pool(3)
    first, second = pool.table(numbers(0, 100)), pool.table(numbers(1000, 10))
    pool.park(second)
    pool.park(first)
    pool.unpark(second)
    assert not BlockTable(pool).reserve(3 * BLOCK_TOKENS)
    assert (len(first.tokens), len(second.tokens)) == (0, 10)
    assert pool.n_available == 2


def test_a_block_held_alone_outlives_its_place_in_the_tree() -> None:
    pool = Pool(3)
    table = pool.table(numbers(0, 3 * BLOCK_TOKENS))
    held = table.blocks[2]
    pool.retain(held)
    table.release()
    assert (pool.n_available, pool.n_cached) == (2, 3)
    other = BlockTable(pool)
    assert other.reserve(2 * BLOCK_TOKENS)
    assert held not in other.blocks
    assert pool.n_available == 0
    pool.release(held)
    assert (pool.n_free, pool.n_cached) == (1, 0)


def test_asking_for_more_than_there_is_is_our_bug() -> None:
    pool = Pool(1)
    block = pool.allocate()
    with pytest.raises(AssertionError, match="out of KV blocks"):
        pool.allocate()
    pool.release(block)
    with pytest.raises(AssertionError, match="released twice"):
        pool.release(block)
    with pytest.raises(AssertionError, match="without a holder"):
        pool.retain(block)


def test_common_prefixes() -> None:
    long = list(range(1000))
    for n in (0, 1, 255, 256, 257, 512, 999, 1000):
        assert common_prefix(long, long[:n]) == n
        assert common_prefix([*long[:n], -1, *long], long) == n
    assert PrefixTree().longest_part(PrefixTree().root, (1, 2)) is None


class Pools(RuleBasedStateMachine):
    """Random requests, whose prompts often begin alike, on few blocks."""

    tables = Bundle("tables")
    prompts = st.lists(
        st.tuples(st.sampled_from([1, 1, 1, 2, 3]), st.sampled_from([1, 30, 64, 64, 100])), min_size=1, max_size=4
    ).map(lambda parts: [token for token, n in parts for _ in range(n)])

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool(12)
        self.open: list[BlockTable] = []
        self.retained: list[tuple[int, list[int]]] = []
        self.has_retained = False

    def use(self, table: BlockTable, prompt: list[int]) -> None:
        """What the scheduler does with a table for a prompt."""
        self.pool.unpark(table)
        table.reuse(prompt)
        if not self.pool.compute(table, prompt[len(table.tokens) :]):
            table.forget_shared_part()
            self.pool.compute(table, prompt[len(table.tokens) :])

    @rule(target=tables, prompt=prompts, parks=st.booleans())
    def begin(self, prompt: list[int], parks: bool) -> BlockTable:
        table = BlockTable(self.pool)
        self.open.append(table)
        self.use(table, prompt)
        if parks:
            self.pool.park(table)
        return table

    @rule(table=tables, prompt=prompts, parks=st.booleans())
    def go_on(self, table: BlockTable, prompt: list[int], parks: bool) -> None:
        self.use(table, prompt)
        if parks:
            self.pool.park(table)

    @rule(table=tables, n_new=st.integers(1, 70), token=st.sampled_from([1, 2, 3]))
    def append(self, table: BlockTable, n_new: int, token: int) -> None:
        self.pool.unpark(table)
        self.pool.compute(table, [token] * n_new)

    @rule(table=tables, prompt=prompts)
    def catch_up(self, table: BlockTable, prompt: list[int]) -> None:
        self.pool.unpark(table)
        table.catch_up(table.tokens + prompt)

    @rule(table=tables, share=st.floats(0, 1))
    def cut(self, table: BlockTable, share: float) -> None:
        table.truncate(int(share * len(table.tokens)))

    @rule(target=tables, table=tables)
    def fork(self, table: BlockTable) -> BlockTable:
        self.open.append(table.fork())
        return self.open[-1]

    @rule(target=tables, table=consumes(tables))
    def release(self, table: BlockTable) -> object:
        table.release()
        self.open.remove(table)
        return multiple()

    @rule(table=tables)
    def retain(self, table: BlockTable) -> None:
        if table.blocks:
            self.has_retained = True
            self.pool.retain(table.blocks[-1])
            self.retained.append((table.blocks[-1], self.pool.memory[table.blocks[-1]].copy()))

    @rule()
    def release_retained(self) -> None:
        if self.retained:
            self.pool.release(self.retained.pop()[0])

    @rule()
    def clear(self) -> None:
        self.pool.clear()

    @invariant()
    def memory_is_what_tables_say(self) -> None:
        for table in self.open:
            assert self.pool.contents(table) == table.tokens
            assert len(table._nodes) == len(table.tokens) // BLOCK_TOKENS
            assert [node.block for node in table._nodes] == table.blocks[: len(table._nodes)]
            assert len(table.blocks) >= blocks_for(len(table.tokens))

    @invariant()
    def retained_blocks_are_never_written(self) -> None:
        assert all(self.pool.memory[block] == contents for block, contents in self.retained)

    @invariant()
    def every_block_has_its_holders(self) -> None:
        pool, tree = self.pool, self.pool.tree
        held = [block for table in self.open for block in table.blocks] + [block for block, _ in self.retained]
        for block in range(pool.n_blocks):
            assert pool._holders[block] == held.count(block) + (block in tree)
            assert (block in tree._idle) == (block in tree and block not in held)
        assert sorted(pool._free) == [block for block in range(pool.n_blocks) if pool._holders[block] == 0]

    @invariant()
    def the_tree_is_sound(self) -> None:
        tree, pool = self.pool.tree, self.pool
        order = list(tree._idle)
        found, below = 0, [(tree.root, child) for child in tree.root.children.values()]
        while below:
            parent, node = below.pop()
            found += 1
            assert node.parent is parent
            assert parent.children[node.tokens] is node
            assert tree._nodes[node.block] is node
            assert pool.memory[node.block] == list(node.tokens)
            if node.block in order and parent.block in order and not self.has_retained:
                assert order.index(node.block) < order.index(parent.block)
            below += [(node, child) for child in node.children.values()]
        assert found == len(tree)

    def teardown(self) -> None:
        for table in self.open:
            table.release()
        for block, _ in self.retained:
            self.pool.release(block)
        self.pool.clear()
        assert self.pool.n_free == self.pool.n_blocks
        assert len(self.pool.tree) == 0


TestPools = Pools.TestCase
TestPools.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
