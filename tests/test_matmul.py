"""Matrix products of every block format against float64, and the promise that nothing but the inputs matters."""

import functools

import numpy as np
import pytest
from gguf_files import Stored, random_stored
from kernel_runner import FORMAT_NAMES, Guarded, Kernels, count, kernels, vector_isas
from kernel_twins import quantised_values

from llmrun.cpu_kernels.activations import LAYOUTS
from llmrun.cpu_kernels.fields import MATMUL, PACK, QUANTISE
from llmrun.cpu_kernels.isa import ISAS
from llmrun.cpu_kernels.matmul_scratch import matmul_scratch_bytes
from llmrun.cpu_kernels.packing import PanelSize, layout_of
from llmrun.quant_formats.formats import format_named

TOKENS = (1, 2, 3, 5, 8, 13, 40)
SHAPES = [(1, 1), (1, 33), (17, 1), (17, 33), (113, 3)]  # rows, blocks of columns


@functools.cache
def case(name: str, n_rows: int, n_blocks: int) -> tuple[Stored, np.ndarray]:
    """Random weights and activations (40, n)."""
    rng = np.random.default_rng(n_rows * 1000 + n_blocks)
    n = n_blocks * format_named(name).block_size
    x = rng.normal(size=(max(TOKENS), n)) * rng.uniform(0.1, 10, size=(max(TOKENS), 1))
    return random_stored(name, (n_rows, n), rng), x.astype(np.float32)


def pack(k: Kernels, stored: Stored) -> np.ndarray:
    """The panels of a matrix."""
    n_rows, row_bytes = stored.rows.shape
    n_panels, n_blocks = -(-n_rows // k.isa.lanes), row_bytes // stored.format.block_bytes
    panel = PanelSize.of(stored.format, n_blocks, k.isa.lanes)
    target = np.zeros(n_panels * panel.n_bytes, np.uint8)
    k.run(
        f"pack-{stored.format.name}", PACK, source=stored.rows, target=target, n_rows=n_rows, n_blocks=n_blocks,
        panel_bytes=panel.n_bytes, words=panel.words,
    )  # fmt: skip
    return target


def activations(k: Kernels, x: np.ndarray, layout: str) -> np.ndarray:
    """The rows in a layout."""
    n_tokens, n = x.shape
    out = np.zeros(n_tokens * LAYOUTS[layout].column_bytes(n), np.uint8)
    targets = {"q16": 0, "f32": 0} | {layout: out}
    k.run("quantise", QUANTISE, n_tokens=count(n_tokens), x=np.ascontiguousarray(x), x_stride=4 * n, n=n, **targets)
    return out


def multiply(
    k: Kernels, stored: Stored, records: np.ndarray, n_columns: int, n_panels: int, out: Guarded, *, accumulate: bool,
    balanced: bool,
) -> None:  # fmt: skip
    """Run the kernel; the rows of `out` are those of whole panels."""
    n, scratch = stored.weights.shape[1], matmul_scratch_bytes(n_columns)
    n_blocks = n // stored.format.block_size
    panel, taken = PanelSize.of(stored.format, n_blocks, k.isa.lanes), np.zeros(8 * k.n_threads, np.int64)
    k.run(
        f"matmul-{stored.format.name}", MATMUL, n_columns=count(n_columns), weights=pack(k, stored), n_panels=n_panels,
        panel_bytes=panel.n_bytes, words=panel.words, n_blocks=n_blocks, x=records, out=out.bytes,
        out_stride=4 * max(16, n_panels * k.isa.lanes), accumulate=int(accumulate),
        scratch=np.empty(k.n_threads * scratch, np.uint8), scratch_stride=scratch, taken=taken if balanced else 0,
    )  # fmt: skip
    assert not taken.any(), "the counters have to be 0 again"


def product(
    k: Kernels, stored: Stored, x: np.ndarray, start: np.ndarray | None = None, *, balanced: bool = False
) -> np.ndarray:
    """Return W x for each row of x: (n_tokens, n_rows) float32; added to `start` where there is one."""
    n_rows, n_tokens = len(stored.rows), len(x)
    n_panels = -(-n_rows // k.isa.lanes)
    stride = max(16, n_panels * k.isa.lanes)
    out = Guarded(n_tokens * stride * 4)
    out.rows(stride)[:, :n_rows] = np.nan if start is None else start
    records = activations(k, x, layout_of(stored.format.name))
    multiply(k, stored, records, n_tokens, n_panels, out, accumulate=start is not None, balanced=balanced)
    out.check()
    return out.rows(stride)[:, :n_rows].copy()


@pytest.mark.parametrize(("n_rows", "n_blocks"), SHAPES)
@pytest.mark.parametrize("name", FORMAT_NAMES)
@pytest.mark.parametrize("isa", ISAS)
def test_product_is_that_of_float64(isa: str, name: str, n_rows: int, n_blocks: int) -> None:
    stored, x = case(name, n_rows, n_blocks)
    weights = stored.weights.astype(np.float64)
    result = product(kernels(isa), stored, x)
    seen = quantised_values(x, layout_of(name))

    magnitude = np.abs(seen) @ np.abs(weights).T
    assert (np.abs(result - seen @ weights.T) <= 3e-6 * magnitude).all()

    # Of the exact activations each may be off by half a step of its block.
    allowed = np.abs(seen - x) @ np.abs(weights).T
    error = np.abs(result - x.astype(np.float64) @ weights.T)
    assert (error <= allowed + 3e-6 * magnitude).all()


@pytest.mark.parametrize(("n_rows", "n_blocks"), SHAPES)
@pytest.mark.parametrize("name", FORMAT_NAMES)
@pytest.mark.parametrize("isa", ISAS)
def test_a_token_is_the_same_in_any_company(isa: str, name: str, n_rows: int, n_blocks: int) -> None:
    stored, x = case(name, n_rows, n_blocks)
    expected = product(kernels(isa), stored, x)
    start = np.random.default_rng(5).normal(size=expected.shape).astype(np.float32)
    for n_threads in (1, 2):
        k = kernels(isa, n_threads)
        for n in TOKENS:
            first = (7 * n) % (len(x) - n + 1)
            some = slice(first, first + n)
            assert (product(k, stored, x[some]) == expected[some]).all(), (n_threads, n)
            added = product(k, stored, x[some], start[some])
            assert (added == start[some] + expected[some]).all(), (n_threads, n)


@pytest.mark.parametrize("n_threads", [1, 2, 3])
@pytest.mark.parametrize("name", ["Q4_K", "F16"])
def test_who_takes_a_panel_does_not_matter(name: str, n_threads: int) -> None:
    isa = vector_isas()[0]
    for n_rows, n_blocks in [*SHAPES, (600, 2)]:
        stored, x = case(name, n_rows, n_blocks)
        for n in (1, 13, 40):
            expected = product(kernels(isa), stored, x[:n])
            for _ in range(5):
                assert (product(kernels(isa, n_threads), stored, x[:n], balanced=True) == expected).all()


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_instruction_sets_agree_to_the_bit(name: str) -> None:
    for n_rows, n_blocks in SHAPES:
        stored, x = case(name, n_rows, n_blocks)
        results = [product(kernels(isa), stored, x[:13]) for isa in vector_isas()]
        assert all((result == results[0]).all() for result in results)


@pytest.mark.parametrize("name", [name for name in FORMAT_NAMES if name.startswith("Q")])
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("byte", [0x00, 0x7F, 0x80, 0xFF])
def test_integers_at_their_limits(isa: str, name: str, byte: int) -> None:
    """Every quant, scale and minimum at an end of its range, against activations of one size."""
    format = format_named(name)
    blocks = np.full((4, 2 * format.block_bytes), byte, np.uint8)
    for field in ("d", "m", "dmin"):
        if field in format.layout.names:
            blocks.view(format.layout)[field] = 0.25
    stored = Stored(format, blocks)
    x = np.ones((3, 2 * format.block_size), np.float32)
    x[1] = -1
    x[2, ::2] = -1
    seen = quantised_values(x, layout_of(name))
    weights = stored.weights.astype(np.float64)
    error = np.abs(product(kernels(isa), stored, x) - seen @ weights.T)
    assert (error <= 1e-6 * (np.abs(seen) @ np.abs(weights).T)).all()
