"""Attention over the blocks of the KV cache against float64, and its independence of threads, company and blocks."""

import dataclasses
import functools
from dataclasses import dataclass

import numpy as np
import pytest
from kernel_runner import HEAD_DIMS, Guarded, count, kernels, vector_isas
from kernel_twins import ByteCache, Cache, attention

from llmrun.cpu_kernels.fields import ATTENTION
from llmrun.cpu_kernels.isa import supported
from llmrun.cpu_kernels.kv_types import KV_TYPES
from llmrun.cpu_kernels.step import MAX_COLUMNS, Step, attention_scratch_bytes, column_bytes

N_KV_HEADS, MAX_BLOCKS, N_BLOCKS = 2, 4, 12
TABLES = np.array([[7, 2, 9, 5], [3, 0, -1, -1], [11, 4, 1, -1]], np.int32)
LENGTHS = (203, 70, 130)  # tokens that each sequence has in the cache

DIMS = {"f16": HEAD_DIMS, "q8_0": (64, 96, 256), "q4_0": (64, 96)}
CASES = [(isa, kv, head_dim) for isa in ("avx512vnni", "avx2") for kv, dims in DIMS.items() for head_dim in dims]
if supported() == ["portable"]:  # then it is what everybody here runs
    CASES = list(dict.fromkeys(("portable", kv, head_dim) for _, kv, head_dim in CASES))
else:
    CASES += [("portable", "f16", 80), ("portable", "q8_0", 96), ("portable", "q4_0", 96)]
# of values about 1; where values have 8 bits, weights are integers of 15 bits, else of 14 bits and a sign
TOLERANCE = {name: {16: 1e-5, 8: 5e-4, 4: 1e-3}[kv.bits] for name, kv in KV_TYPES.items()}


@dataclass(frozen=True)
class Tokens:
    """Tokens whose attention is wanted, in the order of a batch."""

    positions: np.ndarray
    sequences: np.ndarray

    @classmethod
    def of(cls, *runs: tuple[int, int, int]) -> "Tokens":
        """Runs of (sequence, first position, end)."""
        return cls(
            np.concatenate([np.arange(first, end, dtype=np.int32) for _, first, end in runs]),
            np.concatenate([np.full(end - first, sequence, np.int32) for sequence, first, end in runs]),
        )


MIXED = Tokens.of((0, 202, 203), (1, 30, 70), (2, 126, 130))
BATCHES = {"one": Tokens.of((0, 202, 203)), "many": Tokens.of((1, 0, 70)), "mixed": MIXED}


@functools.cache
def new_cache(kv: str, head_dim: int) -> Cache | ByteCache:
    """Random keys and values; where no token has been stored they are not numbers."""
    rng = np.random.default_rng(head_dim)
    shape = (N_BLOCKS, N_KV_HEADS, 64, head_dim)
    cache = Cache(np.full(shape, np.nan, np.float16), np.full(shape, np.nan, np.float16))
    for table, length in zip(TABLES, LENGTHS, strict=True):
        for block, first in zip(table, range(0, length, 64), strict=False):
            n = min(64, length - first)
            for array in (cache.keys, cache.values):
                array[block, :, :n] = rng.normal(size=(N_KV_HEADS, n, head_dim))
    return cache if kv == "f16" else ByteCache.of(cache, KV_TYPES[kv])


def queries(tokens: Tokens, group: int, head_dim: int) -> np.ndarray:
    """Scaled queries (n_tokens, n_heads, head_dim), the same for the same token in any batch."""
    shape = (N_KV_HEADS * group, head_dim)
    rows = [
        np.random.default_rng((group, sequence, position)).normal(size=shape)
        for sequence, position in zip(tokens.sequences, tokens.positions, strict=True)
    ]
    return (3 * head_dim**-0.5 * np.stack(rows)).astype(np.float32)


@functools.cache
def expected(batch: str, group: int, kv: str, head_dim: int, window: int) -> np.ndarray:
    """The attention of a batch in float64."""
    tokens = BATCHES[batch]
    q = queries(tokens, group, head_dim)
    return attention(q, new_cache(kv, head_dim).floats(), tokens.positions, tokens.sequences, TABLES, window=window)


def names(kv: str, head_dim: int) -> tuple[str, str]:
    """The two kernels."""
    return f"attention-{head_dim}{KV_TYPES[kv].suffix}", f"merge-{head_dim}{KV_TYPES[kv].suffix}"


def attend(
    isa: str, q: np.ndarray, cache: Cache | ByteCache, tokens: Tokens, *, window: int, n_threads: int = 1,
    spread: bool = False, tables: np.ndarray = TABLES, residual_tables: np.ndarray | None = None,
    both_ways: bool = False,
) -> np.ndarray:  # fmt: skip
    """What the two kernels make of a batch: (n_tokens, n_heads, head_dim)."""
    n_tokens, n_heads, head_dim = q.shape
    group, max_blocks = n_heads // N_KV_HEADS, tables.shape[1]
    kv = cache.kv.name if isinstance(cache, ByteCache) else "f16"
    step = Step(max(n_tokens, len(tables)), max_blocks, N_KV_HEADS, group, n_threads, {})
    nothing = np.zeros(0, np.int32)
    step.fill(np.zeros(n_tokens, np.int32), tokens.positions, tokens.sequences, tables, nothing, residual_tables)
    out, scratch_bytes = Guarded(q.nbytes), attention_scratch_bytes(head_dim)
    scratch = Guarded(scratch_bytes * n_threads)
    partials = Guarded(n_tokens * N_KV_HEADS * max_blocks * MAX_COLUMNS * column_bytes(head_dim) if spread else 0)
    fields = {
        "tiles": step.address("tiles"), "n_tiles": step.address("n_tiles"), "spread": count(spread), "q": q,
        "q_stride": q[0].nbytes, "out": out.bytes, "out_stride": q[0].nbytes, "n_kv_heads": N_KV_HEADS, "group": group,
        "window": window, "positions": tokens.positions, "sequences": tokens.sequences,
        "block_tables": step.address("block_tables"), "residual_tables": step.address("residual_tables"),
        "table_stride": step.table_stride,
        "k_cache": cache.stored_keys(), "v_cache": cache.stored_values(), "scratch": scratch.bytes,
        "scratch_stride": scratch_bytes, "partials": partials.bytes, "max_blocks": max_blocks,
        "lengths": step.address("lengths") if both_ways else 0,
    }  # fmt: skip
    k = kernels(isa, n_threads)
    k.load(name for case, *which in CASES if case == isa for name in names(*which))  # at once
    k.program([(name, ATTENTION, fields) for name in names(kv, head_dim)])
    for memory in (out, scratch, partials):
        memory.check()
    return out.rows(head_dim).reshape(q.shape).copy()


@pytest.mark.parametrize("window", [0, 1, 50, 64, 100])
@pytest.mark.parametrize("group", [1, 3, 4, 7])
@pytest.mark.parametrize(("isa", "kv", "head_dim"), CASES)
def test_attention(isa: str, kv: str, head_dim: int, group: int, window: int) -> None:
    cache = new_cache(kv, head_dim)
    for name, tokens in BATCHES.items():
        q = queries(tokens, group, head_dim)
        result = attend(isa, q, cache, tokens, window=window)
        np.testing.assert_allclose(result, expected(name, group, kv, head_dim, window), rtol=0, atol=TOLERANCE[kv])
        for n_threads, spread in ((1, True), (2, False), (2, True)):
            again = attend(isa, q, cache, tokens, window=window, n_threads=n_threads, spread=spread)
            np.testing.assert_array_equal(again, result)


@pytest.mark.parametrize("window", [0, 100])
@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize(("isa", "head_dim"), [(isa, head_dim) for isa, kv, head_dim in CASES if kv == "q4_0"])
def test_residuals(isa: str, head_dim: int, group: int, window: int) -> None:
    """Of the first block, and of the run of blocks that a token is in; others are not read, whatever is there."""
    kv = KV_TYPES["q4_0"]
    tables, residuals = np.array([[7, 2, 9, 5, 3]], np.int32), np.array([[11, 4, 1, 0, 6]], np.int32)
    rng = np.random.default_rng(head_dim)
    both = Cache(*(rng.normal(size=(N_BLOCKS, N_KV_HEADS, 64, head_dim)).astype(np.float32) for _ in range(2)))
    rough = ByteCache.of(both, kv)
    left = Cache(both.keys - rough.floats().keys, both.values - rough.floats().values)
    fine = ByteCache.of(Cache(*(x.astype(np.float32) for x in (left.keys, left.values))), kv)
    stored = dataclasses.replace(rough)
    for name in ("keys", "values", "key_scales", "value_scales"):
        getattr(stored, name)[residuals[0]] = getattr(fine, name)[tables[0]]
    parts = [[getattr(x.floats(), name)[tables[0]] for x in (rough, fine)] for name in ("keys", "values")]
    for first, end in ((0, 3), (60, 70), (250, 262), (299, 300)):
        tokens = Tokens.of((0, first, end))
        q = queries(tokens, group, head_dim)
        result = attend(isa, q, stored, tokens, window=window, tables=tables, residual_tables=residuals)
        for i, position in enumerate(range(first, end)):
            is_fine = [block == 0 or block // 4 == position // 256 for block in range(5)]
            seen = Cache(*(a + b * np.reshape(is_fine, (-1, 1, 1, 1)) for a, b in parts))
            where = tokens.positions[i : i + 1], tokens.sequences[i : i + 1], np.arange(5)[None]
            exact = attention(q[i : i + 1], seen, *where, window=window)
            np.testing.assert_allclose(result[i : i + 1], exact, rtol=0, atol=TOLERANCE["q4_0"])
        for n_threads, spread in ((1, True), (2, False), (2, True)):
            again = attend(
                isa, q, stored, tokens, window=window, n_threads=n_threads, spread=spread, tables=tables,
                residual_tables=residuals,
            )  # fmt: skip
            np.testing.assert_array_equal(again, result)


@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize("isa", list(dict.fromkeys(isa for isa, *_ in CASES)))
def test_whole_texts(isa: str, group: int) -> None:
    """Of an encoder, whose tokens see those behind them too."""
    cache, head_dim = new_cache("f16", 80), 80
    tokens = Tokens.of(*((i, 0, n) for i, n in enumerate(LENGTHS)))
    q, sees = queries(tokens, group, head_dim), np.array(LENGTHS)
    exact = attention(q, cache.floats(), tokens.positions, tokens.sequences, TABLES, window=0, lengths=sees)
    result = attend(isa, q, cache, tokens, window=0, both_ways=True)
    np.testing.assert_allclose(result, exact, rtol=0, atol=TOLERANCE["f16"])
    for n_threads, spread in ((1, True), (2, False), (2, True)):
        again = attend(isa, q, cache, tokens, window=0, n_threads=n_threads, spread=spread, both_ways=True)
        np.testing.assert_array_equal(again, result)
    for i, n in enumerate(LENGTHS):
        alone = Tokens.of((i, 0, n))
        found = attend(isa, queries(alone, group, head_dim), cache, alone, window=0, both_ways=True)
        np.testing.assert_array_equal(found, result[tokens.sequences == i])


@pytest.mark.parametrize("group", [1, 3, 64])
@pytest.mark.parametrize(("isa", "kv", "head_dim"), CASES)
def test_a_token_is_the_same_in_any_company(isa: str, kv: str, head_dim: int, group: int) -> None:
    """Alone, in its prompt, among other sequences, and in other blocks of the cache."""
    cache = new_cache(kv, head_dim)
    together = attend(isa, queries(MIXED, group, head_dim), cache, MIXED, window=90)
    moved = np.random.default_rng(0).permutation(N_BLOCKS).astype(np.int32)
    fields = {field.name: getattr(cache, field.name) for field in dataclasses.fields(cache)}
    arrays = {name: x[np.argsort(moved)] for name, x in fields.items() if isinstance(x, np.ndarray)}
    elsewhere = dataclasses.replace(cache, **arrays)
    tables = np.where(TABLES < 0, -1, moved[TABLES]).astype(np.int32)
    for i in (0, 1, 17, 40, 41, 44):
        tokens = Tokens(MIXED.positions[i : i + 1], MIXED.sequences[i : i + 1])
        alone = attend(
            isa, queries(tokens, group, head_dim), elsewhere, tokens, window=90, n_threads=2, spread=True, tables=tables
        )
        np.testing.assert_array_equal(alone[0], together[i])


@pytest.mark.parametrize(("kv", "head_dim"), list(dict.fromkeys((kv, head_dim) for _, kv, head_dim in CASES)))
def test_instruction_sets_agree_to_the_bit(kv: str, head_dim: int) -> None:
    isas = [isa for isa in vector_isas() if (isa, kv, head_dim) in CASES]
    q, cache = queries(MIXED, 3, head_dim), new_cache(kv, head_dim)
    results = [attend(isa, q, cache, MIXED, window=100) for isa in isas]
    assert all((result == results[0]).all() for result in results)


@pytest.mark.parametrize("isa", {isa: None for isa, *_ in CASES})
def test_exp_of_negative_numbers(isa: str) -> None:
    """Of two tokens with scores s and 0 and values 1 and 0, attention gives e**s / (1 + e**s)."""
    head_dim = 80
    scores = np.linspace(-95, 0, 64 * N_KV_HEADS).astype(np.float32).reshape(-1, 1, N_KV_HEADS * 8)
    cache = Cache(*(np.zeros((N_BLOCKS, N_KV_HEADS, 64, head_dim), np.float16) for _ in range(2)))
    cache.keys[0, :, 0, 0] = cache.values[0, :, 0] = 1
    q = np.zeros((1, N_KV_HEADS * 8, head_dim), np.float32)
    tokens = Tokens.of((0, 1, 2))
    for row in scores:
        q[:, :, 0] = row
        power = np.exp(row.astype(np.float64))
        share = np.where(row < -86.6, 0, power / (1 + power))
        result = attend(isa, q, cache, tokens, window=0, tables=np.zeros((1, MAX_BLOCKS), np.int32))
        # the exponent's own rounding counts: its base is two, |s / ln 2| x 2**-24
        error = np.abs(result / np.where(share == 0, 1, share)[..., None] - (share > 0)[..., None])
        assert (error <= 4e-7 + 1e-7 * np.abs(row)[..., None]).all()


@pytest.mark.parametrize(("isa", "kv", "head_dim"), CASES)
def test_large_scores_do_not_overflow(isa: str, kv: str, head_dim: int) -> None:
    cache = new_cache(kv, head_dim)
    q = queries(MIXED, 4, head_dim) * np.float32(300)
    exact = attention(q, cache.floats(), MIXED.positions, MIXED.sequences, TABLES, window=0)
    # the scores' own rounding is what counts: 1000 x 2**-24 in the exponent, or that of queries of 16 bits
    np.testing.assert_allclose(
        attend(isa, q, cache, MIXED, window=0),
        exact,
        rtol=0,
        atol={"f16": 5e-3, "q8_0": 0.2, "q4_0": 0.2}[kv],
    )
