"""The kernels that only encoders have, against float64 and to the bit."""

import numpy as np
import pytest
from kernel_runner import Guarded, count, kernels
from kernel_twins import exact_gelu, layer_norm
from test_cpu_kernels import ISAS, NOT_QUANTISED, check_records, given, on_all_isas, rows_of

from llmrun.cpu_kernels.fields import ADD, GELU, LAYER_NORM

N_TOKENS = 13
WIDTHS = [1, 17, 48, 100, 384, 1536]


@pytest.mark.parametrize("n", WIDTHS)
@pytest.mark.parametrize("isa", ISAS)
def test_layer_norm(isa: str, n: int) -> None:
    rng = np.random.default_rng(n)
    x = rng.normal(size=(N_TOKENS, n)).astype(np.float32)
    weight, bias = rng.normal(size=(2, n)).astype(np.float32)
    x[3] *= 1e6
    x[4] += 100
    x[5] = 7
    eps = 1e-5
    expected = layer_norm(x, weight, bias, np.float32(eps))
    for n_threads in (1, 2):
        k, out, targets = kernels(isa, n_threads), Guarded(x.nbytes), rows_of(x)
        values = {
            "x": x, "x_stride": 4 * n, "weight": weight, "bias": bias, "eps": eps, "n": n, "out_stride": 4 * n,
        }  # fmt: skip
        k.run("layernorm", LAYER_NORM, n_tokens=count(N_TOKENS), rows=0, out=out.bytes, **values, **given(targets))
        out.check()
        result = out.rows(n).copy()
        np.testing.assert_allclose(result[[0, 1, 2, 3, 6, 7]], expected[[0, 1, 2, 3, 6, 7]], rtol=0, atol=3e-6)
        np.testing.assert_allclose(result[4], expected[4], rtol=0, atol=1e-4)  # the values' own rounding
        np.testing.assert_array_equal(result[5], bias)
        check_records(targets, result, k.isa.columns)

        rows = np.array([12, 0, 7], np.int32)
        some = Guarded(3 * n * 4)
        k.run("layernorm", LAYER_NORM, n_tokens=count(3), rows=rows, out=some.bytes, **values, **NOT_QUANTISED)
        some.check()
        np.testing.assert_array_equal(some.rows(n), result[rows])


@pytest.mark.parametrize("n", WIDTHS)
@pytest.mark.parametrize("isa", ISAS)
def test_add(isa: str, n: int) -> None:
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=(2, N_TOKENS, n)).astype(np.float32)
    for n_threads in (1, 2):
        for stride, added in ((4 * n, y), (0, y[0])):
            out = Guarded(x.nbytes)
            out.rows(n)[:] = x
            kernels(isa, n_threads).run(
                "add", ADD, n_tokens=count(N_TOKENS), x=out.bytes, x_stride=4 * n, y=y, y_stride=stride, n=n
            )
            out.check()
            np.testing.assert_array_equal(out.rows(n), x + added)


@pytest.mark.parametrize("n", WIDTHS)
@pytest.mark.parametrize("isa", ISAS)
def test_gelu(isa: str, n: int) -> None:
    x = np.random.default_rng(n).normal(0, 3, (N_TOKENS, n)).astype(np.float32)
    x[0, 0], x[1, 0], x[2, 0] = 0, 1e4, -1e4
    for n_threads in (1, 2):
        k, out, targets = kernels(isa, n_threads), Guarded(x.nbytes), rows_of(x)
        out.rows(n)[:] = x
        k.run("gelu", GELU, n_tokens=count(N_TOKENS), x=out.bytes, x_stride=4 * n, n=n, **given(targets))
        out.check()
        np.testing.assert_allclose(out.rows(n), exact_gelu(x), rtol=2e-7, atol=5e-7)
        check_records(targets, out.rows(n).copy(), k.isa.columns)


@pytest.mark.parametrize("n", [17, 384])
def test_instruction_sets_agree_to_the_bit(n: int) -> None:
    x, weight, bias = (np.random.default_rng(i).normal(size=(5, n)).astype(np.float32) for i in range(3))

    def both(isa: str, n_threads: int) -> np.ndarray:
        out = np.zeros_like(x)
        k = kernels(isa, n_threads)
        k.run(
            "layernorm", LAYER_NORM, n_tokens=count(5), rows=0, x=x, x_stride=4 * n, weight=weight, bias=bias,
            eps=1e-6, n=n, out=out, out_stride=4 * n, **NOT_QUANTISED,
        )  # fmt: skip
        k.run("gelu", GELU, n_tokens=count(5), x=out, x_stride=4 * n, n=n, **NOT_QUANTISED)
        return out

    on_all_isas(both)
