"""What is computed when, and who gets the blocks."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st
from mock_model import ByteTokenizer

from llmrun.runner.block_table import BlockTable
from llmrun.runner.kv_cache import BLOCK_TOKENS, KVCache, blocks_for
from llmrun.runner.pace import GROUP, LEARN_AFTER, Pace
from llmrun.runner.sampler import SamplingParams
from llmrun.runner.scheduler import MAX_SEQUENCES, Scheduler
from llmrun.runner.sequence import Sequence


def pool(n_blocks: int) -> KVCache:
    return KVCache(n_blocks, lambda source, target: None)


unique_ids = itertools.count(1000)


def sequence(
    cache: KVCache,
    n_prompt: int,
    table: BlockTable | None = None,
    text: str = "",
    client: str = "",
    priority: int = 0,
) -> Sequence:
    """A request for `text`, over and over, or for a prompt that begins like no other."""
    prompt = list(text.encode()) or [next(unique_ids)]
    return Sequence(
        (prompt * (n_prompt // len(prompt) + 1))[:n_prompt],
        SamplingParams(temperature=0),
        ByteTokenizer(),  # type: ignore[arg-type]
        4096,
        table or BlockTable(cache),
        keeps_table=table is not None,
        client=client,
        priority=priority,
    )


def compute(scheduler: Scheduler) -> list[tuple[Sequence, int]]:
    """Run a step without a model: every sequence that is through its prompt says "x"."""
    planned = []
    n_decoding, n_prompt = 0, 0
    for chunk in scheduler.schedule():
        s, n = chunk.sequence, chunk.n_tokens
        planned.append((s, n))
        n_decoding, n_prompt = n_decoding + s.is_decoding, n_prompt + n * (not s.is_decoding)
        computed = s.tokens[s.n_computed :][:n]
        if n == s.n_pending:
            s.append(ord("x"))
        s.table.extend(computed)
    if planned:
        scheduler.pace.note(n_decoding, n_prompt, n_decoding + 1e-6 * n_prompt)  # seconds: prompts cost next to nothing
    return planned


def in_no_hurry(scheduler: Scheduler) -> Scheduler:
    """Let prompts have all that a step has left."""
    scheduler.pace.limit = lambda n_decoding: 10_000  # type: ignore[method-assign]
    return scheduler


def test_decoding_comes_before_prompts_and_the_shortest_of_these_first() -> None:
    cache = pool(100)
    scheduler = in_no_hurry(Scheduler(cache, tokens_per_step=50))
    a, b, c = (sequence(cache, n) for n in (20, 70, 10))
    for s in (a, b, c):
        scheduler.add(s)
    assert compute(scheduler) == [(c, 10), (a, 20), (b, 20)]
    assert compute(scheduler) == [(a, 1), (c, 1), (b, 48)]
    assert compute(scheduler) == [(a, 1), (c, 1), (b, 2)]
    assert b.answer == [ord("x")]


def test_a_long_prompt_is_not_overtaken_for_ever() -> None:
    cache = pool(200)
    scheduler = in_no_hurry(Scheduler(cache, tokens_per_step=50))
    long = sequence(cache, 300)
    scheduler.add(long)
    for _ in range(60):
        short = sequence(cache, 50)
        scheduler.add(short)
        compute(scheduler)
        if short.finish_reason is None:
            scheduler.finish(short, "stop")
    assert long.answer


def test_the_client_that_has_had_least_goes_first() -> None:
    cache = pool(200)
    scheduler = in_no_hurry(Scheduler(cache, tokens_per_step=50))
    greedy = [sequence(cache, 100, client="a") for _ in range(5)]
    modest = sequence(cache, 120, client="b")
    for s in (*greedy, modest):
        scheduler.add(s)
    planned = [compute(scheduler)[-1][0] for _ in range(5)]
    assert planned.count(modest) >= 2


def test_a_higher_priority_goes_first_and_takes_blocks() -> None:
    cache = pool(4)
    scheduler = in_no_hurry(Scheduler(cache, tokens_per_step=512))
    low, high = sequence(cache, 200), sequence(cache, 120, priority=1)
    scheduler.add(low)
    assert compute(scheduler) == [(low, 200)]
    scheduler.add(high)
    assert compute(scheduler) == [(high, 120)]
    assert low.table.blocks == []
    scheduler.finish(high, "stop")
    assert compute(scheduler)[0][0] is low


def test_prompts_do_not_make_a_step_twice_as_long() -> None:
    pace = Pace(128)
    assert pace.limit(0) == 128
    assert pace.limit(3) == 0  # to learn how long three answers take
    pace.note(3, 0, 0.008)
    given = []
    for _ in range(20):
        given.append(pace.limit(3))
        pace.note(3, given[-1], 0.008 + 0.0002 * given[-1])
    assert given[0] == GROUP
    assert given[-1] == 16  # of 20 whole groups of 8
    assert all(0.0002 * n <= 0.5 * 0.008 for n in given)


def test_the_pace_is_learned_anew_now_and_then() -> None:
    pace = Pace(128)
    pace.note(1, 0, 0.008)
    for _ in range(LEARN_AFTER):
        assert pace.limit(1) > 0
        pace.note(1, pace.limit(1), 0.010)
    assert pace.limit(1) == 0
    pace.note(1, 0, 0.008)
    assert pace.limit(1) > 0


def test_nothing_to_do_is_an_empty_step() -> None:
    assert Scheduler(pool(1)).schedule() == []


def test_only_so_many_run_at_a_time() -> None:
    cache = pool(200)
    scheduler = Scheduler(cache, tokens_per_step=512)
    for _ in range(MAX_SEQUENCES + 3):
        scheduler.add(sequence(cache, 1))
    assert len(compute(scheduler)) == MAX_SEQUENCES


def test_the_youngest_gives_way_and_comes_back() -> None:
    cache = pool(4)
    scheduler = Scheduler(cache, tokens_per_step=512)
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
    assert compute(scheduler) == [(young, 129 - BLOCK_TOKENS)]  # its first block was not needed
    assert scheduler.sequences == [young]


def test_one_that_cannot_get_in_waits_without_harm() -> None:
    cache = pool(3)
    scheduler = Scheduler(cache, tokens_per_step=512)
    first, second = sequence(cache, 100), sequence(cache, 100)
    scheduler.add(first)
    scheduler.add(second)
    assert compute(scheduler) == [(first, 100)]
    scheduler.finish(second, "cancelled")
    assert compute(scheduler) == [(first, 1)]
    scheduler.finish(first, "cancelled")
    assert (cache.n_available, cache.n_free, cache.n_cached) == (3, 2, 1)


def test_parked_tables_are_used_again_or_emptied_oldest_first() -> None:
    cache = pool(4)
    scheduler = Scheduler(cache, tokens_per_step=512)
    tables = [BlockTable(cache), BlockTable(cache)]
    for table, text in zip(tables, "ab", strict=True):
        s = sequence(cache, 70, table, text)
        scheduler.add(s)
        compute(scheduler)
        scheduler.finish(s, "stop")
    assert (cache.n_free, cache.n_available, cache.n_cached) == (0, 0, 2)
    again = sequence(cache, 71, tables[0], "a")
    scheduler.add(again)
    assert compute(scheduler) == [(again, 1)]
    assert again.stats.n_cached == 70
    scheduler.finish(again, "stop")
    other = sequence(cache, 10)
    scheduler.add(other)
    compute(scheduler)
    assert (tables[1].tokens, tables[1].blocks) == ([], [])  # the one not used for longer
    assert len(tables[0].tokens) == 71
    assert (cache.n_free, cache.n_cached) == (0, 2)  # what was in its full block can still be found


def test_the_last_token_of_a_known_prompt_is_computed_again() -> None:
    cache = pool(4)
    scheduler = Scheduler(cache, tokens_per_step=512)
    table = BlockTable(cache)
    for n_new in (70, 1):
        s = sequence(cache, 70, table, "a")
        scheduler.add(s)
        assert compute(scheduler) == [(s, n_new)]
        scheduler.finish(s, "stop")


def test_a_prompt_that_another_is_computing_is_waited_for_and_shared() -> None:
    cache = pool(40)
    scheduler = Scheduler(cache, tokens_per_step=100)
    first, second = (sequence(cache, 230, text="the same ") for _ in range(2))
    scheduler.add(first)
    scheduler.add(second)
    assert compute(scheduler) == [(first, 100)]
    assert compute(scheduler) == [(first, 100)]
    assert compute(scheduler) == [(first, 30), (second, 38)]
    assert (first.stats.n_cached, second.stats.n_cached) == (0, 3 * BLOCK_TOKENS)
    assert first.table.blocks[:3] == second.table.blocks[:3]
    assert cache.n_free == 40 - 5


def test_without_room_for_a_copy_a_block_is_computed_again() -> None:
    cache = pool(2)
    scheduler = Scheduler(cache, tokens_per_step=512)
    for text, n_new in (("a", 120), ("a", 120 - BLOCK_TOKENS), ("b", 120)):
        s = sequence(cache, 119, text=text)
        s.tokens.append(ord("x"))
        scheduler.add(s)
        assert compute(scheduler) == [(s, n_new)]
        for _ in range(8):
            compute(scheduler)
        scheduler.finish(s, "stop")
        assert (cache.n_free, cache.n_cached) == (0, 2)


def test_the_only_sequence_asks_for_what_others_retain() -> None:
    cache = pool(2)
    scheduler = Scheduler(cache, tokens_per_step=512)
    first = sequence(cache, 100)
    scheduler.add(first)
    compute(scheduler)
    retained = first.table.blocks.copy()
    for block in retained:
        cache.retain(block)

    def release_all() -> None:
        while retained:
            cache.release(retained.pop())

    cache.on_shortage.append(release_all)
    scheduler.finish(first, "stop")
    assert cache.n_available == 0
    second = sequence(cache, 100)
    scheduler.add(second)
    assert compute(scheduler) == [(second, 100)]
    assert retained == []


TEXTS = ("a", "ab", "aaaaaaab" * 10, "b")


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_no_block_is_ever_lost_or_given_twice(data: st.DataObject) -> None:
    cache = pool(6)
    scheduler = Scheduler(cache, tokens_per_step=100)
    chats = [BlockTable(cache) for _ in range(2)]
    alive: list[Sequence] = []

    def add(table: BlockTable | None) -> None:
        n_prompt = data.draw(st.integers(1, 6 * BLOCK_TOKENS - 60))
        alive.append(sequence(cache, n_prompt, table, data.draw(st.sampled_from(TEXTS))))
        scheduler.add(alive[-1])

    for _ in range(40):
        busy = {s.table for s in alive}
        idle = [table for table in chats if table not in busy]
        match data.draw(st.sampled_from(["add", "chat", "fork", "step", "step", "step", "finish"])):
            case "add":
                add(None)
            case "chat" if idle:
                add(idle[0])
            case "fork" if len(chats) < 5:
                chats.append(data.draw(st.sampled_from(chats)).fork())
            case "step":
                planned = compute(scheduler)
                assert bool(planned) == bool(alive)
                assert sum(n for _, n in planned) <= 100
            case "finish" if alive:
                scheduler.finish(alive.pop(data.draw(st.integers(0, len(alive) - 1))), "stop")
        check_holders(cache, [*chats, *(s.table for s in alive if s.table not in chats)])
    for _ in range(600):  # all of them get their turn
        compute(scheduler)
        for s in [s for s in alive if len(s.answer) > 2]:
            scheduler.finish(s, "stop")
            alive.remove(s)
    assert alive == []
    for table in chats:
        table.release()
    assert cache.n_available == 6
    cache.clear()
    assert cache.n_free == 6


def check_holders(cache: KVCache, tables: list[BlockTable]) -> None:
    """Every block has as many holders as there are, and the free ones have none."""
    held = [block for table in tables for block in table.blocks]
    for block in range(cache.n_blocks):
        assert cache._holders[block] == held.count(block) + (block in cache.tree)
        assert (block in cache._free) == (cache._holders[block] == 0)
        assert (block in cache.tree._idle) == (block in cache.tree and block not in held)
    assert len(set(cache._free)) == cache.n_free
    assert all(len(table.blocks) >= blocks_for(len(table.tokens)) for table in tables)
