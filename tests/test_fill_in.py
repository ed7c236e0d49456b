"""Fill in the middle: which markers a vocabulary has, and what the prompt holds when not all of it fits."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mock_model import END, ByteTokenizer, MockModel, mock_engine, says
from small_vocabularies import byte_level

from llmrun.quant_formats.errors import PromptTooLong
from llmrun.quant_formats.gguf_file import GGUFFile
from llmrun.runner import SamplingParams
from llmrun.runner.fill_in import FillIn, FillPrompt
from llmrun.runner.special_tokens import CONTROL
from llmrun.runner.tokenizer import Tokenizer

QWEN = ["<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"]
STARCODER = ["<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>", "<repo_name>", "<file_sep>"]


def tokenizer(markers: list[str], named: dict[str, str] | None = None, **settings: object) -> Tokenizer:
    """A byte-level vocabulary with `markers` behind it; `named` are those that the metadata names."""
    metadata: dict[str, Any] = byte_level("gpt-2", **settings)
    metadata["tokenizer.ggml.tokens"] = tokens = [*metadata["tokenizer.ggml.tokens"], *markers]
    types = metadata["tokenizer.ggml.token_type"].tolist() + [CONTROL] * len(markers)
    metadata["tokenizer.ggml.token_type"] = np.array(types, np.int32)
    for key, text in (named or {}).items():
        metadata[f"tokenizer.ggml.{key}_token_id"] = tokens.index(text)
    return Tokenizer.from_gguf(metadata)


def fill_in(markers: list[str], named: dict[str, str] | None = None, **settings: object) -> FillIn:
    found = FillIn.of(tokenizer(markers, named, **settings))
    assert found is not None
    return found


def text_of(fill: FillIn, prompt: FillPrompt) -> str:
    return fill.tokenizer.decode(prompt.ids, skip_special=False)


def test_prefix_suffix_and_middle() -> None:
    fill = fill_in(QWEN)
    prompt = fill.prompt("def f(", "\n  return x", prompt="x", n_ctx=1000)
    assert text_of(fill, prompt) == "<|fim_prefix|>def f(x<|fim_suffix|>\n  return x<|fim_middle|>"
    assert (prompt.n_prefix_left_out, prompt.n_suffix_left_out, prompt.files_left_out) == (0, 0, ())
    ids = [fill.tokenizer.token_id(text) for text in QWEN]
    assert fill.stop_ids == set(ids)


def test_files_come_first_as_in_a_repository() -> None:
    for markers in (QWEN, STARCODER):
        fill = fill_in(markers)
        prompt = fill.prompt("a", "b", [("x.py", "one"), ("y.py", "two")], n_ctx=1000)
        pre, mid, suf, _, repository, sep = markers
        files = f"{repository}project\n{sep}x.py\none{sep}y.py\ntwo{sep}file\n"
        assert text_of(fill, prompt) == f"{files}{pre}a{suf}b{mid}"


def test_files_without_markers_for_them() -> None:
    fill = fill_in(QWEN[:3])
    prompt = fill.prompt("a", "b", [("x.py", "one")], n_ctx=1000)
    assert text_of(fill, prompt) == "\n\n--- x.py ---\n\none<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>"


@pytest.mark.parametrize(
    "markers",
    [
        ["<PRE>", "<SUF>", "<MID>"],
        ["▁<PRE>", "▁<SUF>", "▁<MID>"],
        ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"],
    ],
)
def test_other_families(markers: list[str]) -> None:
    pre, suf, mid = markers
    fill = fill_in(markers)
    assert text_of(fill, fill.prompt("a", "b", n_ctx=1000)) == f"{pre}a{suf}b{mid}"


def test_the_suffix_first() -> None:
    fill = fill_in(["[PREFIX]", "[SUFFIX]"])
    assert text_of(fill, fill.prompt("a", "b", n_ctx=1000)) == "[SUFFIX]b[PREFIX]a"


@pytest.mark.parametrize("keys", [("fim_pre", "fim_suf", "fim_mid"), ("prefix", "suffix", "middle")])
def test_the_metadata_names_markers(keys: tuple[str, ...]) -> None:
    """And comes before what the vocabulary happens to contain."""
    names = ["<left>", "<right>", "<gap>"]
    fill = fill_in([*QWEN, *names], dict(zip(keys, names, strict=True)))
    assert text_of(fill, fill.prompt("a", "b", n_ctx=1000)).startswith("<left>a<right>b<gap>")


def test_models_that_were_not_trained_for_it() -> None:
    assert FillIn.of(tokenizer([])) is None
    assert FillIn.of(tokenizer(QWEN[:2])) is None
    assert FillIn.of(tokenizer(STARCODER[3:])) is None
    assert FillIn.of(ByteTokenizer()) is None  # type: ignore[arg-type]


def test_smollm2_has_names_for_repositories_but_no_markers(smollm2_path: Any) -> None:
    with GGUFFile.open(smollm2_path) as gguf:
        assert FillIn.of(Tokenizer.from_gguf(gguf.metadata)) is None


def test_bos_comes_first_where_the_model_wants_it() -> None:
    fill = fill_in(QWEN, add_bos_token=True)
    assert fill.prompt("a", "b", n_ctx=1000).ids[0] == fill.tokenizer.bos_id


def test_markers_in_the_texts_are_text() -> None:
    fill = fill_in(QWEN)
    prompt = fill.prompt("<|fim_middle|>", "<|file_sep|>", [("<|repo_name|>", "<|im_end|>")], n_ctx=1000)
    assert [prompt.ids.count(fill.tokenizer.token_id(text) or -1) for text in QWEN] == [1, 1, 1, 0, 1, 2]


LETTERS = st.text("xyz", max_size=400)


@given(before=LETTERS, after=LETTERS, files=st.lists(LETTERS, max_size=4), n_ctx=st.integers(16, 1000), data=st.data())
def test_what_does_not_fit_is_left_out_and_said(
    before: str, after: str, files: list[str], n_ctx: int, data: st.DataObject
) -> None:
    fill = fill_in(QWEN[:3])
    n_predict = data.draw(st.none() | st.integers(0, 1000))
    extra = [(str(i), text) for i, text in enumerate(files)]
    prompt = fill.prompt(before, after, extra, n_ctx=n_ctx, n_predict=n_predict)
    n_answer = max(1, n_ctx // 4 if n_predict is None else min(n_predict, n_ctx // 4))
    assert len(prompt.ids) <= n_ctx - n_answer

    kept_before = before[prompt.n_prefix_left_out :]
    kept_after = after[: len(after) - prompt.n_suffix_left_out]
    kept_files = "".join(f"\n\n--- {name} ---\n\n{text}" for name, text in extra[len(prompt.files_left_out) :])
    assert prompt.files_left_out == tuple(str(i) for i in range(len(prompt.files_left_out)))
    assert text_of(fill, prompt) == f"{kept_files}<|fim_prefix|>{kept_before}<|fim_suffix|>{kept_after}<|fim_middle|>"

    room = n_ctx - n_answer - 3
    if len(before) + len(after) <= room:
        assert (kept_before, kept_after) == (before, after)
    else:
        assert len(kept_before) + len(kept_after) >= room - max(1, room // 16)
        assert len(kept_after) >= min(len(after), room // 4)


def test_the_beginning_stays_while_somebody_types() -> None:
    fill = fill_in(QWEN)
    starts = [fill.prompt("x" * 2000 + "y" * n, "z" * 50, n_ctx=1000).n_prefix_left_out for n in range(100)]
    assert len(set(starts)) <= 4


def test_no_room_at_all() -> None:
    with pytest.raises(PromptTooLong, match="a context of 4 tokens has no room"):
        fill_in(QWEN).prompt("a", "b", n_ctx=4)


def test_an_answer_ends_at_a_marker() -> None:
    engine = mock_engine(MockModel(choose=says("ab|cd", after=2)))
    generation = engine.submit([1, 2], SamplingParams(temperature=0, stop_ids=frozenset({ord("|")})))
    assert [piece.text for piece in generation] == ["a", "b", ""]
    assert generation.finish_reason == "stop"
    assert END not in generation.ids
