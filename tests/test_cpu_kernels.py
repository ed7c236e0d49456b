"""The kernels that work row by row, against float64 or to the bit; products and attention have files of their own."""

from collections.abc import Callable

import activation_records
import numpy as np
import pytest
from gguf_files import random_stored
from kernel_runner import FORMAT_NAMES, Guarded, count, kernels, vector_isas
from kernel_twins import ByteCache, Cache, gelu, numbers_and_scales, quantise, rms_norm, rope, silu, turned

from llmrun.cpu_kernels.fields import EMBED, GATED, NORM, PACK, QUANTISE, ROPE
from llmrun.cpu_kernels.kv_types import KV_TYPES
from llmrun.cpu_kernels.packing import PanelSize
from llmrun.quant_formats.formats import format_named

ISAS = ("avx512vnni", "avx2", "portable")  # of the bytes that AVX-VNNI multiplies, these kernels know nothing
NOT_QUANTISED = {"q16": 0, "f32": 0}
TOLERANCE = 5e-7


def rows_of(x: np.ndarray) -> dict[str, np.ndarray]:
    """The targets of every layout that rows of this width can have, and 0 for the others."""
    n_tokens, n = x.shape
    sizes = {"q16": (32, 64), "f32": (1, 4)}
    return {
        name: np.zeros(n_tokens * n // block * size if n % block == 0 else 0, np.uint8)
        for name, (block, size) in sizes.items()
    }


def given(targets: dict[str, np.ndarray]) -> dict[str, np.ndarray | int]:
    return {name: target if target.size else 0 for name, target in targets.items()}


def check_records(targets: dict[str, np.ndarray], x: np.ndarray, widest: int) -> None:
    """Every field of every record is what the layout says of the rows x, to the bit."""
    n_tokens, n = x.shape
    if targets["q16"].size:
        quants, scales = quantise(x)
        found = activation_records.decode_q16(targets["q16"], n_tokens, n // 32, widest)
        sums = quants.reshape(n_tokens, -1, 2, 16).sum(axis=-1, dtype=np.int32)
        np.testing.assert_array_equal(found.quants.reshape(n_tokens, n), quants)
        np.testing.assert_array_equal(found.scales.reshape(n_tokens, -1), scales)
        np.testing.assert_array_equal(found.starts, np.float32(1.5 * 2**23).view(np.int32) - 128 * sums)
        np.testing.assert_array_equal(found.ends, np.float64(-1.5 * 2**23) * found.scales)
        parts = found.scales * sums.astype(np.float32)
        np.testing.assert_array_equal(found.sums, parts[..., 0] + parts[..., 1])
    np.testing.assert_array_equal(activation_records.decode_f32(targets["f32"], n_tokens, n, widest), x)


def on_all_isas(compute: Callable[[str, int], np.ndarray]) -> None:
    """Fail unless 1 and 2 threads, and all instruction sets with fused operations, give the same bits."""
    for isa in [isa for isa in vector_isas() if isa in ISAS]:
        expected = compute(vector_isas()[0], 1)
        for n_threads in (1, 2):
            np.testing.assert_array_equal(compute(isa, n_threads), expected)


@pytest.mark.parametrize("n", [32, 96, 256, 512, 2304])
@pytest.mark.parametrize("n_tokens", [1, 2, 3, 5, 8, 13, 40])
@pytest.mark.parametrize("isa", ISAS)
def test_quantise(isa: str, n_tokens: int, n: int) -> None:
    rng = np.random.default_rng(n)
    x = (rng.normal(size=(n_tokens, n)) * 10.0 ** rng.integers(-6, 6, (n_tokens, 1))).astype(np.float32)
    x[-1, : n // 2] = 0
    x[0, ::7] = -127.5
    for n_threads in (1, 2):
        k, targets = kernels(isa, n_threads), rows_of(x)
        k.run("quantise", QUANTISE, n_tokens=count(n_tokens), x=x, x_stride=4 * n, n=n, **given(targets))
        check_records(targets, x, k.isa.columns)


@pytest.mark.parametrize("isa", ISAS)
def test_quantising_the_smallest_and_largest_floats(isa: str) -> None:
    """No value that is not a number comes out; what is too small to be divided by counts for nothing."""
    x = np.zeros((3, 32), np.float32)
    x[0, ::2], x[1, ::2], x[2, ::2] = 1e-42, 3e38, -1e-30
    k, targets = kernels(isa), rows_of(x)
    k.run("quantise", QUANTISE, n_tokens=count(3), x=x, x_stride=128, n=32, **given(targets))
    found = activation_records.decode_q16(targets["q16"], 3, 1, k.isa.columns)
    values = found.quants[:, 0] * np.repeat(found.scales[:, 0].astype(np.float64), 16, axis=-1)
    np.testing.assert_allclose(values, x, rtol=1e-6, atol=1e-38)


@pytest.mark.parametrize("n", [1, 17, 64, 100, 576, 2304])
@pytest.mark.parametrize("isa", ISAS)
def test_norm(isa: str, n: int) -> None:
    rng = np.random.default_rng(n)
    x, weight = rng.normal(size=(13, n)).astype(np.float32), rng.normal(size=n).astype(np.float32)
    x[3] *= 1e6
    x[4] *= 1e-4
    x[5] = 0
    eps = 1e-5
    expected = rms_norm(x, weight.astype(np.float64), np.float32(eps))
    for n_threads in (1, 2):
        k, out, targets = kernels(isa, n_threads), Guarded(13 * n * 4), rows_of(x)
        values = {"x": x, "x_stride": 4 * n, "weight": weight, "eps": eps, "n": n, "out_stride": 4 * n}
        k.run(
            "norm", NORM, n_tokens=count(13), rows=0, residual=0, out=out.bytes, **values, **given(targets)
        )  # fmt: skip
        out.check()
        result = out.rows(n).copy()
        np.testing.assert_allclose(result, expected, rtol=TOLERANCE, atol=1e-30)
        check_records(targets, result, k.isa.columns)

        rows = np.array([12, 0, 7], np.int32)
        some = Guarded(3 * n * 4)
        k.run("norm", NORM, n_tokens=count(3), rows=rows, residual=0, out=some.bytes, **values, **NOT_QUANTISED)
        some.check()
        np.testing.assert_array_equal(some.rows(n), result[rows])

        residual = Guarded(13 * n * 4)
        start = rng.normal(size=(13, n)).astype(np.float32)
        residual.rows(n)[:] = start
        k.run("norm", NORM, n_tokens=count(13), rows=0, residual=residual.bytes, out=0, **values, **NOT_QUANTISED)
        residual.check()
        np.testing.assert_array_equal(residual.rows(n), start + result)


@pytest.mark.parametrize("n", [1, 16, 33, 300, 1536])
@pytest.mark.parametrize(("name", "twin"), [("silu", silu), ("gelu", gelu)])
@pytest.mark.parametrize("isa", ISAS)
def test_gated(isa: str, name: str, twin: Callable, n: int) -> None:
    rng = np.random.default_rng(n)
    gate = (rng.normal(size=(13, n)) * np.geomspace(1e-3, 100, 13)[:, None]).astype(np.float32)
    up = rng.normal(size=(13, n)).astype(np.float32)
    gate[0, 0], gate[1, 0], gate[2, 0] = 0, 1e4, -1e4
    expected = twin(gate.astype(np.float64)) * up
    for n_threads in (1, 2):
        k, out, targets = kernels(isa, n_threads), Guarded(13 * n * 4), rows_of(gate)
        k.run(
            f"gated-{name}", GATED, n_tokens=count(13), gate=gate, gate_stride=4 * n, up=up, up_stride=4 * n,
            out=out.bytes, out_stride=4 * n, n=n, **given(targets),
        )  # fmt: skip
        out.check()
        # where the gate is closed, the exponent's own rounding counts: |exponent| x 2**-24
        np.testing.assert_allclose(out.rows(n), expected, rtol=1e-5, atol=1e-30)
        np.testing.assert_allclose(out.rows(n), expected, rtol=1e-6, atol=1e-6)
        check_records(targets, out.rows(n).copy(), k.isa.columns)


@pytest.mark.parametrize("isa", ISAS)
def test_exp_of_large_numbers(isa: str) -> None:
    """silu(-x) is -x / (1 + e**x): from x = 17 on it shows e**x itself."""
    x = np.linspace(17, 87, 4096).astype(np.float32)
    out, up = Guarded(x.nbytes), np.ones_like(x)
    kernels(isa).run(
        "gated-silu", GATED, n_tokens=count(1), gate=-x, gate_stride=x.nbytes, up=up, up_stride=x.nbytes,
        out=out.bytes, out_stride=x.nbytes, n=len(x), **NOT_QUANTISED,
    )  # fmt: skip
    wide = x.astype(np.float64)
    np.testing.assert_allclose(out.rows(len(x))[0], -wide / (1 + np.exp(wide)), rtol=4e-7)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_embed_is_exact(isa: str, name: str) -> None:
    stored = random_stored(name, (9, 3 * format_named(name).block_size), np.random.default_rng(1))
    tokens = np.array([8, 0, 3, 3, 7], np.int32)
    n = stored.weights.shape[1]
    for n_threads in (1, 2):
        out = Guarded(5 * n * 4)
        kernels(isa, n_threads).run(
            f"embed-{name}", EMBED, n_tokens=count(5), tokens=tokens, table=stored.rows,
            row_bytes=stored.rows.shape[1], n_blocks=3, out=out.bytes, out_stride=4 * n, scale=25.298221,
        )  # fmt: skip
        out.check()
        np.testing.assert_array_equal(out.rows(n), stored.weights[tokens] * np.float32(25.298221))


@pytest.mark.parametrize("isa", ISAS)
def test_every_half_is_read_exactly(isa: str) -> None:
    halves = np.arange(1 << 16, dtype=np.uint16)
    out = Guarded(4 << 16)
    kernels(isa).run(
        "embed-F16", EMBED, n_tokens=count(1), tokens=np.zeros(1, np.int32), table=halves, row_bytes=2 << 16,
        n_blocks=1 << 16, out=out.bytes, out_stride=4 << 16, scale=1.0,
    )  # fmt: skip
    np.testing.assert_array_equal(out.rows(1 << 16)[0], halves.view(np.float16).astype(np.float32))


def panels(name: str, rows: np.ndarray, lanes: int) -> np.ndarray:
    """The panels of rows (n_rows, n_blocks, block bytes): each half of the blocks, then each word, lane by lane."""
    format = format_named(name)
    padded = np.zeros((-(-len(rows) // lanes) * lanes, *rows.shape[1:]), np.uint8)
    padded[: len(rows)] = rows
    blocks = padded.reshape(-1, lanes, *rows.shape[1:]).swapaxes(1, 2)  # (n_panels, n_blocks, lanes, block bytes)
    fields = format.layout.fields or {"": (format.layout, 0)}
    places = [(field, offset, kind.itemsize) for field, (kind, offset, *_) in fields.items()]
    if name == "Q6_K":  # the two halves of a block one after the other, in the order in which they are multiplied
        places = [("scales", 192, 16), ("ql", 0, 64), ("qh", 128, 32), ("ql", 64, 64), ("qh", 160, 32), ("d", 208, 2)]
    halfs, words = [], []
    for field, offset, size in places:
        step = 2 if size == 2 else 4
        for at in range(offset, offset + size, step):
            piece = np.ascontiguousarray(blocks[..., at : at + step])
            if (name, field) in (("Q5_0", "qh"), ("Q5_1", "qh")):
                piece = bit_planes(piece)
            (halfs if step == 2 else words).append(piece.reshape(*blocks.shape[:2], -1))
    return np.concatenate([whole_lines(pieces, len(blocks)) for pieces in (halfs, words)], axis=-1).reshape(-1)


def whole_lines(pieces: list[np.ndarray], n_panels: int) -> np.ndarray:
    """The pieces (n_panels, n_blocks, bytes) of each panel, padded with zeros to a multiple of 64 bytes."""
    plane = np.concatenate(pieces, axis=-1).reshape(n_panels, -1) if pieces else np.zeros((n_panels, 0), np.uint8)
    return np.pad(plane, ((0, 0), (0, -plane.shape[1] % 64)))


def bit_planes(words: np.ndarray) -> np.ndarray:
    """Bit 4 s + i of each word (..., 4) uint8 becomes bit s of byte i."""
    bits = np.unpackbits(words, axis=-1, bitorder="little").reshape(*words.shape[:-1], 8, 4)
    return np.packbits(bits.swapaxes(-1, -2), axis=-1, bitorder="little")[..., 0]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_pack(isa: str, name: str) -> None:
    format = format_named(name)
    for n_rows, n_blocks in ((1, 1), (8, 2), (17, 3), (40, 5)):
        rng = np.random.default_rng(n_rows)
        rows = rng.integers(0, 256, (n_rows, n_blocks, format.block_bytes), np.uint8)
        for n_threads in (1, 2):
            k = kernels(isa, n_threads)
            expected = panels(name, rows, k.isa.lanes)
            target = Guarded(expected.size)
            target.bytes[:] = 0  # what is missing stays zero
            panel = PanelSize.of(format, n_blocks, k.isa.lanes)
            k.run(
                f"pack-{name}", PACK, source=rows, target=target.bytes, n_rows=n_rows, n_blocks=n_blocks,
                panel_bytes=panel.n_bytes, words=panel.words,
            )  # fmt: skip
            target.check()
            np.testing.assert_array_equal(target.bytes, expected)


class RopeCase:
    """Tokens of three sequences whose queries are turned and whose keys and values are stored."""

    n_kv_heads, n_blocks = 2, 7
    positions = np.array([0, 1, 62, 63, 64, 65, 130], np.int32)
    sequences = np.array([0, 0, 1, 1, 1, 1, 2], np.int32)
    tables = np.array([[6, 0, 0], [2, 5, 0], [0, 0, 3]], np.int32)
    residuals = np.array([[1, -1, -1], [-1, 4, -1], [-1, -1, -1]], np.int32)

    def __init__(self, head_dim: int, rope_dim: int, group: int, *, extras: bool):
        rng = np.random.default_rng(head_dim + rope_dim)
        self.head_dim, self.n_heads, self.extras = head_dim, group * self.n_kv_heads, extras
        n = len(self.positions)
        self.q, self.k, self.v = (
            rng.normal(size=(n, heads, head_dim)).astype(np.float32)
            for heads in (self.n_heads, self.n_kv_heads, self.n_kv_heads)
        )
        self.biases = [rng.normal(size=x.shape[1:]).astype(np.float32) for x in (self.q, self.k, self.v)]
        self.norms = [rng.normal(size=head_dim).astype(np.float32) for _ in range(2)]
        self.angles = self.positions[:, None] * 10_000.0 ** -(np.arange(0, rope_dim, 2) / rope_dim)

    def run(self, isa: str, n_threads: int, *, paired: bool) -> tuple[np.ndarray, Cache]:
        """The queries, and the cache; what was not written is NaN."""
        shape = (self.n_blocks, self.n_kv_heads)
        keys = np.full((*shape, 4, self.head_dim, 16), np.nan, np.float16)
        values = np.full((*shape, 64, self.head_dim), np.nan, np.float16)
        return self.run_into(isa, n_threads, "rope", keys, values, paired=paired), Cache.from_stored(keys, values)

    def run_into(
        self, isa: str, n_threads: int, kernel: str, keys: np.ndarray, values: np.ndarray, *, paired: bool
    ) -> np.ndarray:
        """Run the kernel of a type of keys and values; returns the queries."""
        q, k, v = self.q.copy(), self.k.copy(), self.v.copy()
        turns = np.stack([np.cos(self.angles), np.sin(self.angles)], axis=-1).astype(np.float32)
        q_bias, k_bias, v_bias = self.biases if self.extras else (0, 0, 0)
        q_norm, k_norm = self.norms if self.extras else (0, 0)
        kernels(isa, n_threads).run(
            kernel, ROPE, n_tokens=count(len(q)), q=q, q_stride=q[0].nbytes, k=k, k_stride=k[0].nbytes, v=v,
            v_stride=v[0].nbytes, n_heads=self.n_heads, n_kv_heads=self.n_kv_heads, head_dim=self.head_dim,
            q_bias=q_bias, k_bias=k_bias, v_bias=v_bias, q_norm=q_norm, k_norm=k_norm, eps=1e-6, angles=turns,
            rope_dim=2 * self.angles.shape[1], paired=int(paired), scale=0.125, positions=self.positions,
            sequences=self.sequences, block_tables=self.tables, residual_tables=self.residuals, table_stride=12,
            k_cache=keys, v_cache=values,
        )  # fmt: skip
        return q

    def prepared(self, x: np.ndarray, which: int, *, paired: bool) -> np.ndarray:
        """Queries (0) or keys (1) in float64."""
        wide = x.astype(np.float64)
        if self.extras:
            wide = rms_norm(wide + self.biases[which], self.norms[which], 1e-6)
        return rope(wide, self.angles, paired=paired)


@pytest.mark.parametrize(("head_dim", "rope_dim", "group"), [(64, 64, 1), (80, 80, 3), (128, 32, 4), (256, 256, 7)])
@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("extras", [True, False])
@pytest.mark.parametrize("isa", ISAS)
def test_rope(isa: str, head_dim: int, rope_dim: int, group: int, *, paired: bool, extras: bool) -> None:
    case = RopeCase(head_dim, rope_dim, group, extras=extras)
    q, cache = case.run(isa, 1, paired=paired)
    np.testing.assert_allclose(q, 0.125 * case.prepared(case.q, 0, paired=paired), rtol=1e-6, atol=5e-7)

    where = (case.tables[case.sequences, case.positions // 64], slice(None), case.positions % 64)
    np.testing.assert_allclose(cache.keys[where], case.prepared(case.k, 1, paired=paired), rtol=6e-4, atol=1e-6)
    v = case.v + case.biases[2] if extras else case.v
    np.testing.assert_array_equal(cache.values[where], v.astype(np.float16))
    assert np.isfinite(cache.keys).sum() == np.isfinite(cache.values).sum() == case.k.size, "written elsewhere"

    q_again, cache_again = case.run(isa, 2, paired=paired)
    np.testing.assert_array_equal(q, q_again)
    np.testing.assert_array_equal(cache.keys, cache_again.keys)


@pytest.mark.parametrize(("head_dim", "group"), [(64, 1), (96, 3), (256, 7)])
@pytest.mark.parametrize("kv_name", ["q8_0", "q4_0"])
@pytest.mark.parametrize("isa", ISAS)
def test_rope_stores_few_bits(isa: str, kv_name: str, head_dim: int, group: int) -> None:
    """Values to the bit, and keys within what the bits of the 32 turned ones allow."""
    kv = KV_TYPES[kv_name]
    case = RopeCase(head_dim, head_dim, group, extras=True)
    case.v[0] = -case.biases[2]  # nothing but zeros
    case.v[1] = -case.biases[2] + 1e-9  # some below the smallest half
    added = case.v + case.biases[2]
    found = []
    for n_threads in (1, 2):
        keys, values = (Guarded(case.n_blocks * case.n_kv_heads * n_bytes) for n_bytes in [kv.head_bytes(head_dim)] * 2)
        q = case.run_into(isa, n_threads, f"rope-{kv_name}", keys.bytes, values.bytes, paired=False)
        for memory in (keys, values):
            memory.check()
        found.append((q, keys.bytes.copy(), values.bytes.copy()))
    for one, two in zip(*found, strict=True):
        np.testing.assert_array_equal(one, two)
    q, *stored = found[0]
    np.testing.assert_array_equal(q, case.run(isa, 1, paired=False)[0])
    keys, values = (array.reshape(case.n_blocks, case.n_kv_heads, -1) for array in stored)
    cache = ByteCache.from_stored(kv, keys, values, head_dim)
    where = (case.tables[case.sequences, case.positions // 64], slice(None), case.positions % 64)
    numbers, scales = numbers_and_scales(turned(added) if kv.turns_values else added, kv.bits)
    np.testing.assert_array_equal(cache.values[where], numbers)
    np.testing.assert_array_equal(cache.value_scales[where], scales)
    expected = turned(case.prepared(case.k, 1, paired=False))
    largest = np.repeat(np.abs(expected.reshape(*expected.shape[:-1], -1, 32)).max(-1), 32, axis=-1)
    keys = cache.keys[where] * np.repeat(cache.key_scales[where].astype(np.float64), 32, axis=-1)
    rounding = 0.51 / 127 if kv.bits == 8 else 1.01 / 8  # the largest of the other sign is cut off at 7
    assert (np.abs(keys - expected) <= rounding * largest + 1e-6).all()
    if kv.has_residuals:
        blocks = case.residuals[case.sequences, case.positions // 64]
        kept = blocks >= 0
        where = (blocks[kept], slice(None), case.positions[kept] % 64)
        left = turned(added)[kept] - numbers[kept] * np.repeat(scales[kept].astype(np.float32), 32, axis=-1)
        numbers, scales = numbers_and_scales(left, kv.bits)
        np.testing.assert_array_equal(cache.values[where], numbers)
        np.testing.assert_array_equal(cache.value_scales[where], scales)
        keys[kept] += cache.keys[where] * np.repeat(cache.key_scales[where].astype(np.float64), 32, axis=-1)
        assert (np.abs(keys - expected)[kept] <= 1.01 / 8 / 8 * largest[kept] + 1e-6).all()


@pytest.mark.parametrize("isa", ISAS)
def test_halves_are_rounded_to_even(isa: str) -> None:
    """Values near every half, on both sides and in the middle between two, as the cache keeps them."""
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    middles = (halves[:-1] + halves[1:]) / 2
    floats = np.concatenate(
        [halves, middles, np.nextafter(middles, np.float32(0)), np.nextafter(middles, np.float32(1e9))]
    )
    case = RopeCase(256, 256, 1, extras=False)
    size = case.v.size
    floats = np.resize(np.concatenate([floats, -floats]), -(-2 * len(floats) // size) * size)
    where = (case.tables[case.sequences, case.positions // 64], slice(None), case.positions % 64)
    for v in floats.reshape(-1, *case.v.shape):
        case.v = v
        _, cache = case.run(isa, 1, paired=True)
        np.testing.assert_array_equal(cache.values[where].view(np.uint16), v.astype(np.float16).view(np.uint16))


@pytest.mark.parametrize("n", [17, 576])
def test_instruction_sets_agree_to_the_bit(n: int) -> None:
    rng = np.random.default_rng(n)
    x, y, weight = (rng.normal(size=shape).astype(np.float32) for shape in ((5, n), (5, n), (n,)))
    gates = {"gate": x, "gate_stride": 4 * n, "up": y, "up_stride": 4 * n, "out_stride": 4 * n, "n": n}

    def norm(isa: str, n_threads: int) -> np.ndarray:
        out = np.zeros_like(x)
        kernels(isa, n_threads).run(
            "norm", NORM, n_tokens=count(5), rows=0, x=x, x_stride=4 * n, weight=weight, eps=1e-6, n=n, residual=0,
            out=out, out_stride=4 * n, **NOT_QUANTISED,
        )  # fmt: skip
        return out

    def gated(isa: str, n_threads: int) -> np.ndarray:
        silus, gelus = np.zeros_like(x), np.zeros_like(x)
        k = kernels(isa, n_threads)
        k.run("gated-silu", GATED, n_tokens=count(5), out=silus, **gates, **NOT_QUANTISED)
        k.run("gated-gelu", GATED, n_tokens=count(5), out=gelus, **gates, **NOT_QUANTISED)
        return np.stack([silus, gelus])

    def turned(isa: str, n_threads: int) -> np.ndarray:
        q, cache = RopeCase(80, 80, 3, extras=True).run(isa, n_threads, paired=False)
        return np.concatenate([q.ravel(), cache.keys.ravel()])

    for compute in (norm, gated, turned):
        on_all_isas(compute)
