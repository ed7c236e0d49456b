"""The matrix product alone: one matrix of each format times the activations of a prompt, in operations a second.

A multiply-add is two operations. The time of a program with many products less that of one with a single product is
that of the others, so quantising the activations is not in it. "of the peak" is next to the processor's dot
instruction without loads.
"""

import argparse
import time
from statistics import median

import numpy as np
from dot_peak import dot_peak
from machine import describe
from random_gguf import random_blocks

from llmrun.cpu_kernels.isa import Isa, choose
from llmrun.cpu_kernels.kv_types import DEFAULT, KV_TYPES
from llmrun.cpu_kernels.large_pages import LargePages
from llmrun.cpu_kernels.library import KernelLibrary
from llmrun.cpu_kernels.packing import PackedMatrix, pack
from llmrun.cpu_kernels.program import ProgramBuilder, Rows
from llmrun.cpu_kernels.step import Step
from llmrun.cpu_kernels.team import Team
from llmrun.quant_formats.block_format import BlockFormat
from llmrun.quant_formats.formats import FORMATS, format_named
from llmrun.quant_formats.tensor import Tensor

SIZE = 4096  # rows and columns of the matrix
N_PRODUCTS = 5  # of the longer program


class Product:
    """Programs that multiply a matrix with the activations of `n_tokens` tokens."""

    def __init__(self, isa: Isa, n_threads: int, format: BlockFormat, n_tokens: int) -> None:
        self._team = Team(KernelLibrary(isa), n_threads)
        self._team.library.load([f"pack-{format.name}"])
        blocks = random_blocks(format, SIZE * SIZE // format.block_size)
        self._weights: dict[str, PackedMatrix | np.ndarray] = {
            "matrix": pack(self._team, Tensor("matrix", (SIZE, SIZE), format, blocks.reshape(-1)), LargePages()),
            "norm": np.ones(SIZE, np.float32),
        }
        self._n_tokens = n_tokens
        self._short, self._long = self._program(1), self._program(N_PRODUCTS)

    def operations_per_second(self) -> float:
        """Of one product, from one run of each program."""
        seconds = (self._seconds(*self._long) - self._seconds(*self._short)) / (N_PRODUCTS - 1)
        return 2 * SIZE * SIZE * self._n_tokens / seconds

    def close(self) -> None:
        """End the threads."""
        self._team.close()

    def _program(self, n_products: int) -> tuple[np.ndarray, Rows, ProgramBuilder]:
        """A program, its activations, and the builder, which keeps the memory alive."""
        step = Step(self._n_tokens, 1, 1, 1, self._team.n_threads, {})
        rows = np.arange(self._n_tokens, dtype=np.int32)
        step.fill(rows, rows, np.zeros_like(rows), np.zeros((1, 1), np.int32), rows[:0])
        builder = ProgramBuilder(self._weights, step, self._team.n_threads, KV_TYPES[DEFAULT])
        x = Rows(builder, SIZE)
        builder.matmul(builder.norm(x, "norm", 1e-5), *["matrix"] * n_products)
        self._team.library.load(builder.kernels)
        no_kv = np.zeros((1, 1, 1), np.uint16)
        return builder.finish(self._team.library, (no_kv, no_kv)), x, builder

    def _seconds(self, program: np.ndarray, x: Rows, _: ProgramBuilder) -> float:
        x.array(self._n_tokens)[:] = np.random.default_rng(0).normal(size=(self._n_tokens, SIZE))
        start = time.perf_counter()
        self._team.run(program)
        return time.perf_counter() - start


def product_speed(isa: Isa, n_threads: int, format: BlockFormat, n_tokens: int, n_rounds: int) -> float:
    """Operations a second, the median of the rounds."""
    product = Product(isa, n_threads, format, n_tokens)
    product.operations_per_second()  # touches all memory
    speeds = [product.operations_per_second() for _ in range(n_rounds)]
    product.close()
    return median(speeds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [format.name for format in FORMATS.values() if format.block_size > 1]  # those multiplied in integers
    parser.add_argument("formats", nargs="*", metavar="FORMAT", default=names, help=f"default: {' '.join(names)}")
    parser.add_argument("--columns", type=int, metavar="N", default=512, help="tokens; default: %(default)s")
    parser.add_argument("--threads", type=int, metavar="N", nargs="+", default=[1, 2], help="default: 1 2")
    parser.add_argument("--rounds", type=int, metavar="N", default=9, help="default: %(default)s")
    parser.add_argument("--isa", metavar="NAME", help="instruction set; default: the best of this processor")
    options = parser.parse_args()
    isa = choose(options.isa)
    peaks = {n: dot_peak(isa, n) for n in options.threads}
    print(f"{describe(isa.name)}\n{SIZE} x {SIZE} times {options.columns} columns, {options.rounds} rounds")
    for n, peak in peaks.items():
        if peak:
            print(f"dot instruction, {n} threads: {peak / 1e12:.2f} TOPS")
    heads = ["TOPS", *(head for n in peaks for head in (f"{n} threads", "of the peak"))]
    print("\n| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for format in map(format_named, options.formats):
        cells = []
        for n, peak in peaks.items():
            speed = product_speed(isa, n, format, options.columns, options.rounds)
            cells += [f"{speed / 1e12:.2f}", f"{speed / peak:.0%}" if peak else ""]
        print(f"| {format.name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
