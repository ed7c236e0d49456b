"""What requests and conversations take over from each other: counted in tokens, and the same to the bit."""

import itertools
import random
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from mock_model import ByteTokenizer, MockModel, TurnTemplate, mock_engine
from random_models import N_VOCAB, RESIDUALS, all_logits, write_random_model

from llmrun.cpu_kernels.kv_types import KV_TYPES
from llmrun.quant_formats.gguf_file import GGUFFile
from llmrun.runner.block_table import BlockTable
from llmrun.runner.cpu_model import CPUModel
from llmrun.runner.engine import Engine
from llmrun.runner.generation import Generation
from llmrun.runner.kv_cache import BLOCK_TOKENS
from llmrun.runner.sampler import Sampler, SamplingParams

GREEDY = SamplingParams(temperature=0, max_tokens=10)


def run(generation: Generation) -> Generation:
    for _ in generation:
        pass
    return generation


def test_a_second_turn_computes_only_the_new_tokens() -> None:
    model = MockModel(lambda history: ord("x"))
    engine = mock_engine(model, TurnTemplate(), n_ctx=4096)
    chat = engine.chat(params=GREEDY)
    first = run(chat.send("word " * 780))
    assert first.stats.n_prompt > 3900
    n_before = model.n_tokens
    second = run(chat.send("And?"))
    n_new = second.stats.n_prompt - first.stats.n_prompt - len(first.ids)
    assert n_new < 40
    # the id chosen last was never computed, and neither is that of the second turn
    assert model.n_tokens - n_before == 1 + n_new + len(second.ids) - 1
    assert second.stats.n_cached == first.stats.n_prompt + len(first.ids) - 1


def test_another_conversation_takes_over_what_is_the_same() -> None:
    model = MockModel()
    engine = mock_engine(model, TurnTemplate(), n_ctx=1024, n_parallel=2)
    system = "You are a careful assistant. " * 10
    chats = [engine.chat(system=system, params=GREEDY) for _ in range(2)]
    run(chats[0].send("Yes?"))
    n_before = model.n_tokens
    second = run(chats[1].send("No."))
    assert second.stats.n_cached > len(system)
    assert model.n_tokens - n_before == second.stats.n_prompt - second.stats.n_cached + len(second.ids) - 1


def test_a_request_that_has_ended_serves_the_next() -> None:
    engine = mock_engine(MockModel(), n_ctx=1024)
    first = run(engine.generate("a" * 505, GREEDY))
    again = run(engine.generate("a" * 505, GREEDY))
    assert again.ids == first.ids
    assert again.stats.n_cached == 504  # of the last block, a part of the one that the answer filled


def test_retry_and_edit_keep_what_comes_before_the_change() -> None:
    engine = mock_engine(MockModel(), n_ctx=1024)
    table = engine.new_table()
    prompt = list(b"some prompt, " * 20)
    first = run(engine.submit(prompt, SamplingParams(temperature=0, max_tokens=100), table))
    retry = run(engine.submit(prompt, SamplingParams(temperature=1, seed=1, max_tokens=100), table))
    assert retry.stats.n_cached == len(prompt) - 1
    edit = run(engine.submit([*prompt[:100], *b"other"], GREEDY, table))
    assert edit.stats.n_cached == 100
    back = run(engine.submit([*prompt, *first.ids, ord("x")], GREEDY, table))
    assert back.stats.n_cached == (len(prompt) + 99) // BLOCK_TOKENS * BLOCK_TOKENS


def test_a_fork_goes_its_own_way() -> None:
    engine = mock_engine(MockModel(), n_ctx=1024)
    table = engine.new_table()
    first = run(engine.submit(list(b"a story " * 20), GREEDY, table))
    fork = table.fork()
    known = [*first.prompt_ids, *first.ids]
    for one, text in ((table, b" of two"), (fork, b" of three")):
        generation = run(engine.submit([*known, *text], GREEDY, one))
        assert generation.stats.n_cached == len(known) - 1
        assert generation.ids == run(mock_engine(MockModel()).generate([*known, *text], GREEDY)).ids


def test_the_same_prompt_many_times_at_once_is_computed_once() -> None:
    model = MockModel()
    engine = mock_engine(model, n_ctx=1024, n_parallel=4)
    generations = [engine.generate("b" * 1000, GREEDY) for _ in range(4)]
    for generation in generations:
        run(generation)
    assert len({tuple(generation.ids) for generation in generations}) == 1
    cached = [generation.stats.n_cached for generation in generations]
    assert cached == [0, 960 - (2 * 512 - 1000), 960, 960]  # the second began in what the first left of a step
    assert model.n_tokens == sum(1000 - n for n in cached) + 4 * 9


def test_catching_up_takes_the_residuals_over_too() -> None:
    engine = mock_engine(MockModel(residual_blocks=4), n_ctx=1024, n_parallel=2)
    behind, ahead = engine.new_table(), engine.new_table()
    prompt = list(b"some prompt, " * 40)
    run(engine.submit(prompt[:10], SamplingParams(temperature=0, max_tokens=1), behind))
    run(engine.submit(prompt[:200], SamplingParams(temperature=0, max_tokens=1), ahead))
    assert behind.reserve(300)
    assert behind.catch_up(prompt[:128]) == 118
    assert behind.residuals == {i: ahead.residuals[i] for i in range(2)}  # its own were hardly written
    run(engine.submit(prompt[:120], GREEDY, behind))
    run(engine.submit(prompt, GREEDY, ahead))
    assert behind.reuse(prompt) == 512
    assert sorted(behind.residuals) == [0]
    assert run(engine.submit(prompt, GREEDY, behind)).ids == run(mock_engine(MockModel()).generate(prompt, GREEDY)).ids


def test_what_is_kept_never_stands_in_the_way() -> None:
    engine = mock_engine(MockModel(), n_ctx=256)
    for i in range(20):
        prompt = f"prompt {i} " * 22
        fresh = run(mock_engine(MockModel()).generate(prompt, GREEDY))
        assert run(engine.generate(prompt, GREEDY)).ids == fresh.ids
    assert (engine.kv_cache.n_available, engine.kv_cache.n_cached) == (4, 3)


def read_block(engine: Engine, block: int) -> bytes:
    out = np.empty(engine.model.kv_block_bytes, np.uint8)
    engine.model.read_kv(block, out)
    return out.tobytes()


def read_blocks(engine: Engine, table: BlockTable) -> list[bytes]:
    return [read_block(engine, block) for block in table.blocks]


def read_residuals(engine: Engine, table: BlockTable) -> dict[int, bytes]:
    return {i: read_block(engine, block) for i, block in table.residuals.items()}


@pytest.mark.parametrize("residual_blocks", [0, 2, 4])
def test_restored_blocks_need_no_prefill(residual_blocks: int) -> None:
    engine = mock_engine(MockModel(residual_blocks=residual_blocks), n_ctx=512)
    table = engine.new_table()
    first = run(engine.submit(list(b"remember " * 30), GREEDY, table))
    blocks, residuals, tokens = read_blocks(engine, table), read_residuals(engine, table), table.tokens.copy()
    model = MockModel(residual_blocks=residual_blocks)
    other = mock_engine(model, n_ctx=512)
    restored = other.new_table()
    n_restored = other.restore(restored, tokens, blocks.__getitem__, residuals.__getitem__)
    assert n_restored == len(tokens) == len(first.prompt_ids) + 9
    prompt = [*first.prompt_ids, *first.ids, ord("?")]
    again = run(other.submit(prompt, GREEDY, restored))
    assert again.stats.n_cached == len(tokens)
    assert model.n_tokens == 2 + 9
    assert again.ids == run(engine.submit(prompt, GREEDY, table)).ids
    restored.release()
    other.kv_cache.clear()
    assert other.kv_cache.n_free == other.kv_cache.n_blocks
    if residual_blocks:  # without them, up to the beginning of the last run
        first_of_run = 64 * residual_blocks * (len(tokens) // (64 * residual_blocks))
        without = {i: contents for i, contents in residuals.items() if i == 0}
        assert other.restore(other.new_table(), tokens, blocks.__getitem__, without.__getitem__) == first_of_run
        other.kv_cache.clear()
        assert other.restore(other.new_table(), tokens, blocks.__getitem__) == 0


def test_restoring_takes_what_is_there_and_what_fits() -> None:
    engine = mock_engine(MockModel(), n_ctx=512)
    table = engine.new_table()
    run(engine.submit(list(b"0123456789" * 40), GREEDY, table))
    blocks, tokens = read_blocks(engine, table), table.tokens.copy()
    second = engine.new_table()
    assert engine.restore(second, tokens, blocks.__getitem__) == len(tokens)  # 8 blocks for the two, one of them copied
    assert second.blocks[:-1] == table.blocks[:-1]
    small = mock_engine(MockModel(), n_ctx=300)
    third = small.new_table()
    assert small.restore(third, tokens, blocks.__getitem__) == 5 * BLOCK_TOKENS
    assert small.restore(small.new_table(), tokens, blocks[:2].__getitem__) == 5 * BLOCK_TOKENS
    small.kv_cache.clear()
    assert small.restore(small.new_table(), tokens, blocks[:2].__getitem__) == 2 * BLOCK_TOKENS


@pytest.mark.parametrize("residual_blocks", [0, 2])
def test_a_thousand_turns_with_edits_and_retries_leave_nothing_behind(residual_blocks: int) -> None:
    """Three conversations, on an engine that has room for two."""
    rng = random.Random(1)
    model = MockModel(residual_blocks=residual_blocks)
    engine = mock_engine(model, n_ctx=512, n_parallel=2)
    chats: list[tuple[BlockTable, list[int]]] = [(engine.new_table(), []) for _ in range(3)]
    sizes = []
    tracemalloc.start()
    for turn in range(1000):
        which = rng.randrange(len(chats))
        table, history = chats[which]
        match rng.choice(["send", "send", "send", "retry", "edit", "cancel", "fork", "close"]):
            case "edit":
                history = history[: rng.randrange(len(history) + 1)]
            case "fork":
                table.release()
                table, history = chats[which - 1][0].fork(), chats[which - 1][1]
            case "close":
                table.release()
                table, history = engine.new_table(), []
            case "retry" if history:
                history = history[:-9]
            case "cancel":
                generation = engine.submit([*history, 1], GREEDY, table)
                next(generation)
                generation.cancel()
        prompt = [*history, *rng.choices(range(97, 100), k=rng.randrange(1, 60))]
        if len(prompt) > 500:
            prompt = prompt[-200:]
        params = SamplingParams(temperature=1, seed=turn, max_tokens=9)
        generation = run(engine.submit(prompt, params, table))
        chats[which] = table, [*prompt, *generation.ids]
        model.batches.clear()
        if turn % 250 == 249:
            sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert max(sizes[1:]) - sizes[0] < 50_000, sizes
    for table, _ in chats:
        table.release()
    assert engine.kv_cache.n_available == engine.kv_cache.n_blocks
    engine.close()
    assert (engine.kv_cache.n_free, engine.kv_cache.n_cached) == (engine.kv_cache.n_blocks, 0)


def test_going_back_without_residuals_begins_the_run_again() -> None:
    model = MockModel(residual_blocks=2)
    engine = mock_engine(model, n_ctx=1024)
    table = engine.new_table()
    prompt = list(b"some prompt, " * 50)
    run(engine.submit(prompt, GREEDY, table))
    assert sorted(table.residuals) == [0, 10]
    retry = run(engine.submit([*prompt[:-1], ord("!")], GREEDY, table))
    assert retry.stats.n_cached == len(prompt) - 1
    run(engine.submit([*prompt[:200], *b"other"], GREEDY, table))
    assert sorted(table.residuals) == [0, 2, 3]
    back = run(engine.submit(prompt, GREEDY, table))
    assert back.stats.n_cached == 640  # the prefix tree keeps residuals as long as there is room
    while engine.kv_cache.tree._idle_residuals:
        for block in engine.kv_cache.tree.evict():
            engine.kv_cache.release(block)
    again = run(engine.submit([*prompt[:300], *b"other"], GREEDY, table))
    assert again.stats.n_cached == 256
    assert again.ids == run(mock_engine(MockModel()).generate([*prompt[:300], *b"other"], GREEDY)).ids
    table.release()
    engine.kv_cache.clear()
    assert engine.kv_cache.n_free == engine.kv_cache.n_blocks


# -- the same logits, to the bit, on models with weights --------------------------------------------------------------

TEXTS = [np.random.default_rng(i).integers(0, N_VOCAB, 200).tolist() for i in range(3)]


def load(path: Path, kv_type: str, n_threads: int = 2) -> CPUModel:
    with GGUFFile.open(path) as gguf:
        return CPUModel(gguf, n_threads, kv_type=kv_type)


KINDS = [("gemma3", "q8_0"), *(("llama", kv_type) for kv_type in KV_TYPES)]
"""Every type of keys and values, with and without a window."""


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def kind(request: pytest.FixtureRequest) -> tuple[str, str]:
    found: tuple[str, str] = request.param
    return found


@pytest.fixture(scope="module")
def path(kind: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    architecture, _ = kind
    folder = tmp_path_factory.mktemp("model")
    return write_random_model(folder / "model.gguf", architecture, "Q4_0", 7 if architecture == "gemma3" else 2)


@pytest.fixture(scope="module")
def fresh(kind: tuple[str, str], path: Path) -> Iterator[CPUModel]:
    """A model that only ever reads whole texts."""
    model = load(path, kind[1], n_threads=1)
    model.allocate_kv(RESIDUALS + 8)
    yield model
    model.close()


@pytest.fixture(scope="module")
def engine(kind: tuple[str, str], path: Path) -> Iterator[Engine]:
    """Ten blocks: room for two of the texts, and a block or two for copies."""
    with Engine(load(path, kind[1]), ByteTokenizer(), n_ctx=5 * BLOCK_TOKENS, n_parallel=2) as engine:  # type: ignore[arg-type]
        yield engine


prompts = st.lists(
    st.tuples(st.sampled_from([0, 0, 0, 1, 2]), st.sampled_from([1, 40, 64, 100, 128, 130])), min_size=1, max_size=2
).map(lambda parts: [token for text, n in parts for token in TEXTS[text][:n]])
requests = st.tuples(prompts, st.sampled_from([1, 5, 30]), st.sampled_from(["none", "first", "second", "fork"]))


def test_no_logit_tells_where_a_prefix_came_from(
    engine: Engine, fresh: CPUModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shared, forked, copied, evicted, computed by whom it may be: those of a text that is read alone."""
    copy, copied, cached = engine.kv_cache._copy_block, [], []
    monkeypatch.setattr(engine.kv_cache, "_copy_block", lambda *blocks: copied.append(copy(*blocks)))

    @settings(deadline=None, derandomize=True, max_examples=20, phases=[Phase.generate])
    @given(rounds=st.lists(st.lists(requests, min_size=1, max_size=3), min_size=2, max_size=6))
    def check(rounds: list[list[tuple[list[int], int, str]]]) -> None:
        cached.append(check_rounds(engine, fresh, rounds))

    check()
    assert len(copied) > 20
    assert sum(cached) > 2000


def check_rounds(engine: Engine, fresh: CPUModel, rounds: list[list[tuple[list[int], int, str]]]) -> int:
    """Compare the logits of requests, some at a time; returns how many tokens were taken over."""
    found: dict[tuple[int, ...], int] = {}
    sample = Sampler.sample

    def recording(sampler: Sampler, logits: np.ndarray, tokens: list[int]) -> int:
        row = zlib.crc32(logits.view(np.uint8))
        assert found.setdefault(tuple(tokens), row) == row
        return sample(sampler, logits, tokens)

    tables = {"first": engine.new_table(), "second": engine.new_table()}
    ended: list[Generation] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sampler, "sample", recording)
        for together in rounds:
            free = dict(tables)
            generations = []
            for prompt, n_answer, which in together:
                table = tables["first"].fork() if which == "fork" else free.pop(which, None)
                goes_on = [*table.tokens, prompt[0]] if table and len(table.tokens) < 200 else prompt
                generations.append(engine.submit(goes_on, SamplingParams(temperature=0, max_tokens=n_answer), table))
            ended += map(run, generations)
    for generation in ended:
        ids = [*generation.prompt_ids, *generation.ids]
        rows = all_logits(fresh, np.array(ids), chunk=512)
        for n in range(generation.stats.n_prompt, len(ids)):
            assert found[tuple(ids[:n])] == zlib.crc32(rows[n - 1].view(np.uint8)), (n, generation.stats)
    for table in tables.values():
        table.release()
    engine.kv_cache.clear()
    assert engine.kv_cache.n_free == engine.kv_cache.n_blocks
    return sum(generation.stats.n_cached for generation in ended)


def test_blocks_are_read_copied_and_written(engine: Engine, kind: tuple[str, str], path: Path) -> None:
    table = engine.new_table()
    params = SamplingParams(temperature=0, max_tokens=20)
    first = run(engine.submit(TEXTS[0][:150], params, table))
    blocks, residuals, tokens = read_blocks(engine, table), read_residuals(engine, table), table.tokens.copy()
    spare = engine.kv_cache.allocate()
    engine.model.copy_kv(table.blocks[1], spare)
    assert read_block(engine, spare) == blocks[1]
    engine.kv_cache.release(spare)
    with Engine(load(path, kind[1], 1), ByteTokenizer(), n_ctx=320) as other:  # type: ignore[arg-type]
        assert other.fingerprint == engine.fingerprint
        restored = other.new_table()
        assert other.restore(restored, tokens, blocks.__getitem__, residuals.__getitem__) == len(tokens)
        assert read_blocks(other, restored) == blocks
        assert read_residuals(other, restored) == residuals
        prompt = [*first.prompt_ids, *first.ids, 3]
        found, wanted = run(other.submit(prompt, params, restored)), run(engine.submit(prompt, params, table))
        assert (found.ids, found.stats.n_cached) == (wanted.ids, len(tokens))
        with pytest.raises(AssertionError):
            other.model.write_kv(0, blocks[0][:-1])
    engine.release(table)


def test_fingerprints_tell_models_apart(tmp_path: Path) -> None:
    numbers = itertools.count()  # an open file cannot be written everywhere

    def fingerprint(architecture: str = "llama", format_name: str = "Q8_0", kv: str = "f16", edit: int = 0) -> str:
        path = write_random_model(tmp_path / f"{next(numbers)}.gguf", architecture, format_name)
        if edit:
            contents = bytearray(path.read_bytes())
            contents[edit] ^= 1
            path.write_bytes(contents)
        model = load(path, kv, 1)
        found = model.fingerprint()
        model.close()
        return found

    found = [
        fingerprint(),
        fingerprint("qwen2"),
        fingerprint(format_name="Q4_0"),
        fingerprint(kv="q8_0"),
        fingerprint(edit=-1),
    ]
    assert len(set(found)) == 5
    assert found[0] == fingerprint()
