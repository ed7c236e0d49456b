"""Random schedules: texts that are read in chunks, in steps shared with others, in blocks of any order."""

import itertools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from random_models import RESIDUALS, batch

from llmrun.cpu_kernels.step import BLOCK_TOKENS
from llmrun.runner.cpu_model import MAX_TOKENS
from llmrun.runner.model import Model

N_BLOCKS = RESIDUALS
"""Blocks that a model needs for a schedule, and once more for residuals."""

N_OTHER_TOKENS = 130
"""Most tokens of a text that keeps the first one company."""


@dataclass(frozen=True)
class Reader:
    """Reads the first `n_tokens` of a text, from step `arrives` on, in chunks of these sizes over and over."""

    text: int
    n_tokens: int
    arrives: int
    chunks: tuple[int, ...]


@dataclass(frozen=True)
class Schedule:
    """Who reads what and when; `seed` decides the order of the sequences in each batch, and the blocks."""

    readers: tuple[Reader, ...]
    n_threads: int
    seed: int


@st.composite
def schedules(draw: st.DrawFn, n_tokens: int, n_texts: int, n_others: int) -> Schedule:
    """Make a schedule in which the whole of the first text, of `n_tokens`, is read among beginnings of the others."""
    chunks = st.lists(st.sampled_from((512, 64, 7, 1)) | st.integers(1, 100), min_size=1, max_size=4).map(tuple)
    others = st.builds(
        Reader,
        text=st.integers(1, n_texts - 1),
        n_tokens=st.integers(1, N_OTHER_TOKENS),
        arrives=st.integers(0, 6),
        chunks=chunks,
    )
    readers = Reader(0, n_tokens, 0, draw(chunks)), *(draw(others) for _ in range(n_others))
    return Schedule(readers, draw(st.sampled_from((1, 2))), draw(st.integers(0, 1 << 32)))


def fingerprints(logits: np.ndarray) -> list[int]:
    """Return a checksum of the bits of each row: those of a long text over a large vocabulary would fill the memory."""
    return [zlib.crc32(row) for row in logits.view(np.uint8)]


def read_in_company(model: Model, texts: Sequence[np.ndarray], schedule: Schedule) -> list[list[int]]:
    """For each reader of a schedule, the fingerprints of the logits after each of its tokens."""
    rng = np.random.default_rng(schedule.seed)
    free = list(range(N_BLOCKS))
    chunks = [itertools.cycle(reader.chunks) for reader in schedule.readers]
    blocks: list[list[int]] = [[] for _ in schedule.readers]
    found: list[list[int]] = [[] for _ in schedule.readers]
    for step in itertools.count():
        if all(len(rows) == reader.n_tokens for rows, reader in zip(found, schedule.readers, strict=True)):
            return found
        budget, parts = MAX_TOKENS, {}
        for i in rng.permutation(len(schedule.readers)):
            reader, at = schedule.readers[i], len(found[i])
            n = min(next(chunks[i]), reader.n_tokens - at, budget) if reader.arrives <= step else 0
            if n:
                while len(blocks[i]) * BLOCK_TOKENS < at + n:
                    blocks[i].append(free.pop(rng.integers(len(free))))
                parts[i] = texts[reader.text][at : at + n], at, blocks[i]
                budget -= n
        rows = iter(fingerprints(model.forward(batch(*parts.values()))) if parts else ())
        for i, (tokens, _, _) in parts.items():
            found[i] += itertools.islice(rows, len(tokens))
            if len(found[i]) == schedule.readers[i].n_tokens:
                free += blocks[i]


def decode_together(model: Model, prompts: Sequence[np.ndarray], n_steps: int) -> list[list[int]]:
    """Read the prompts one by one, then append the likeliest token to all at once, `n_steps` times.

    Returns, for each prompt, the fingerprints of the logits that its tokens were chosen from.
    """
    free = np.random.default_rng(len(prompts)).permutation(N_BLOCKS).tolist()
    blocks = [[free.pop() for _ in range(-(-(len(p) + n_steps) // BLOCK_TOKENS))] for p in prompts]
    found, chosen = [], []
    for prompt, own in zip(prompts, blocks, strict=True):
        last = model.forward(batch((prompt, 0, own)))[-1:]
        found.append(fingerprints(last))
        chosen.append(last.argmax(axis=1))
    for step in range(n_steps):
        parts = [(chosen[i], len(prompt) + step, blocks[i]) for i, prompt in enumerate(prompts)]
        logits = model.forward(batch(*parts))
        chosen = list(logits.argmax(axis=1)[:, None])
        for rows, row in zip(found, fingerprints(logits), strict=True):
            rows.append(row)
    return found


def check_rows(found: Sequence[int], expected: Sequence[int]) -> None:
    """Fail where rows of logits differ, and say which."""
    assert len(found) <= len(expected)
    differing = [i for i, (row, wanted) in enumerate(zip(found, expected, strict=False)) if row != wanted]
    assert not differing, f"{len(differing)} of {len(found)} rows differ, the first of them after token {differing[0]}"
