"""What is computed when, and who gets the blocks."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mock_model import ByteTokenizer

from llmrun.runner.block_table import BlockTable
from llmrun.runner.kv_cache import BLOCK_TOKENS, KVCache, blocks_for
from llmrun.runner.sampler import SamplingParams
from llmrun.runner.scheduler import MAX_SEQUENCES, Scheduler
from llmrun.runner.sequence import Sequence


def sequence(cache: KVCache, n_prompt: int, table: BlockTable | None = None) -> Sequence:
    return Sequence(
        [97] * n_prompt,
        SamplingParams(temperature=0),
        ByteTokenizer(),  # type: ignore[arg-type]
        4096,
        table or BlockTable(cache),
        keeps_table=table is not None,
    )


def compute(scheduler: Scheduler) -> list[tuple[Sequence, int]]:
    """Run a step without a model: every sequence that is through its prompt says "x"."""
    planned = []
    for chunk in scheduler.schedule():
        s, n = chunk.sequence, chunk.n_tokens
        planned.append((s, n))
        computed = s.tokens[s.n_computed :][:n]
        if n == s.n_pending:
            s.append(ord("x"))
        s.table.extend(computed)
    return planned


def test_decoding_comes_before_prompts_and_prompts_share_the_rest() -> None:
    cache = KVCache(100)
    scheduler = Scheduler(cache, tokens_per_step=50)
    a, b, c = (sequence(cache, n) for n in (20, 70, 10))
    for s in (a, b, c):
        scheduler.add(s)
    assert compute(scheduler) == [(a, 20), (b, 30)]
    assert compute(scheduler) == [(a, 1), (b, 40), (c, 9)]
    assert compute(scheduler) == [(a, 1), (b, 1), (c, 1)]
    assert c.answer == [ord("x")]


def test_nothing_to_do_is_an_empty_step() -> None:
    assert Scheduler(KVCache(1)).schedule() == []


def test_only_so_many_run_at_a_time() -> None:
    cache = KVCache(200)
    scheduler = Scheduler(cache)
    for _ in range(MAX_SEQUENCES + 3):
        scheduler.add(sequence(cache, 1))
    assert len(compute(scheduler)) == MAX_SEQUENCES


def test_the_youngest_gives_way_and_comes_back() -> None:
    cache = KVCache(4)
    scheduler = Scheduler(cache)
    old, young = sequence(cache, 120), sequence(cache, 120)
    scheduler.add(old)
    scheduler.add(young)
    assert compute(scheduler) == [(old, 120), (young, 120)]
    for _ in range(8):
        assert compute(scheduler) == [(old, 1), (young, 1)]
    assert compute(scheduler) == [(old, 1)]  # needs a third block
    assert young.n_computed == 0
    assert young.table.blocks == []
    scheduler.finish(old, "cancelled")
    assert compute(scheduler) == [(young, 129)]
    assert scheduler.sequences == [young]


def test_one_that_cannot_get_in_waits_without_harm() -> None:
    cache = KVCache(3)
    scheduler = Scheduler(cache)
    first, second = sequence(cache, 100), sequence(cache, 100)
    scheduler.add(first)
    scheduler.add(second)
    assert compute(scheduler) == [(first, 100)]
    scheduler.finish(second, "cancelled")
    assert compute(scheduler) == [(first, 1)]
    scheduler.finish(first, "cancelled")
    assert cache.n_free == 3


def test_parked_tables_are_used_again_or_emptied_oldest_first() -> None:
    cache = KVCache(4)
    scheduler = Scheduler(cache)
    tables = [BlockTable(cache), BlockTable(cache)]
    for table in tables:
        s = sequence(cache, 70, table)
        scheduler.add(s)
        compute(scheduler)
        scheduler.finish(s, "stop")
    assert (cache.n_free, cache.n_available) == (0, 4)
    again = sequence(cache, 71, tables[0])
    scheduler.add(again)
    assert compute(scheduler) == [(again, 1)]
    assert again.stats.n_cached == 70
    scheduler.finish(again, "stop")
    other = sequence(cache, 10)
    scheduler.add(other)
    compute(scheduler)
    assert (tables[1].tokens, tables[1].blocks) == ([], [])  # the one not used for longer
    assert len(tables[0].tokens) == 71


def test_the_last_token_of_a_known_prompt_is_computed_again() -> None:
    cache = KVCache(4)
    scheduler = Scheduler(cache)
    table = BlockTable(cache)
    for n_new in (70, 1):
        s = sequence(cache, 70, table)
        scheduler.add(s)
        assert compute(scheduler) == [(s, n_new)]
        scheduler.finish(s, "stop")


def test_block_tables_grow_and_shrink_by_whole_blocks() -> None:
    cache = KVCache(10)
    table = BlockTable(cache)
    table.reserve(BLOCK_TOKENS + 1)
    assert (len(table.blocks), cache.n_free) == (2, 8)
    table.extend(range(BLOCK_TOKENS + 1))
    assert table.keep_common_prefix([*range(BLOCK_TOKENS), -1]) == BLOCK_TOKENS
    assert (len(table.blocks), cache.n_free) == (1, 9)
    table.truncate(3)
    assert table.tokens == [0, 1, 2]
    assert len(table.blocks) == 1
    table.release()
    assert cache.n_free == 10
    with pytest.raises(AssertionError):
        table.extend([1])


def test_asking_for_more_than_there_is_is_our_bug() -> None:
    cache = KVCache(1)
    cache.allocate()
    with pytest.raises(AssertionError, match="out of KV blocks"):
        cache.allocate()


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_no_block_is_ever_lost_or_given_twice(data: st.DataObject) -> None:
    cache = KVCache(6)
    scheduler = Scheduler(cache, tokens_per_step=100)
    chats = [BlockTable(cache) for _ in range(2)]
    alive: list[Sequence] = []
    for _ in range(40):
        busy = {s.table for s in alive}
        match data.draw(st.sampled_from(["add", "chat", "step", "step", "finish"])):
            case "add":
                alive.append(sequence(cache, data.draw(st.integers(1, 6 * BLOCK_TOKENS - 60))))
                scheduler.add(alive[-1])
            case "chat" if idle := [table for table in chats if table not in busy]:
                alive.append(sequence(cache, data.draw(st.integers(1, 200)), idle[0]))
                scheduler.add(alive[-1])
            case "step":
                planned = compute(scheduler)
                assert bool(planned) == bool(alive)
                assert sum(n for _, n in planned) <= 100
                assert alive == [] or planned == [] or alive[0] in [s for s, _ in planned]
            case "finish" if alive:
                scheduler.finish(alive.pop(data.draw(st.integers(0, len(alive) - 1))), "stop")
        tables = {*chats, *(s.table for s in alive)}
        used = [block for table in tables for block in table.blocks]
        assert len(used) == len(set(used)) == cache.n_blocks - cache.n_free
        assert all(len(table.blocks) >= blocks_for(len(table.tokens)) for table in tables)
