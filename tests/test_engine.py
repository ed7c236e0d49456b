"""The engine on a model without weights: the same text whatever else runs, and an end for every answer."""

import gc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mock_model import END, N_VOCAB, ByteTokenizer, MockModel, mock_engine, says

from llmrun.quant_formats.errors import ContextTooLong, CorruptFile, OutOfMemory, PromptTooLong, UsageError
from llmrun.runner import memory
from llmrun.runner.engine import Engine
from llmrun.runner.memory import available_memory, check_memory
from llmrun.runner.sampler import SamplingParams
from llmrun.runner.stop_strings import StopStrings

GREEDY = SamplingParams(temperature=0, max_tokens=30)


def n_free(engine: Engine) -> int:
    return engine.kv_cache.n_available


def read(engine: Engine, prompt: str, params: SamplingParams = GREEDY) -> list[int]:
    generation = engine.generate(prompt, params)
    for _ in generation:
        pass
    return generation.ids


def test_pieces_are_the_text_and_the_ids() -> None:
    engine = mock_engine(MockModel(says("héllo 😀!", after=2)))
    generation = engine.generate("ab", GREEDY)
    pieces = list(generation)
    assert "".join(piece.text for piece in pieces) == generation.text == "héllo 😀!"
    assert [piece.id for piece in pieces] == generation.ids == [*"héllo 😀!".encode(), END]
    assert generation.finish_reason == "stop"
    assert generation.prompt_ids == [ord("a"), ord("b")]
    stats = generation.stats
    assert (stats.n_prompt, stats.n_cached, stats.n_generated) == (2, 0, len(pieces))
    assert 0 < stats.t_prefill <= stats.t_first_token
    assert stats.decode_tokens_per_second > 0
    assert stats.prefill_tokens_per_second > 0
    assert stats.decode_ms_per_token > 0
    assert list(generation) == []


def test_prompts_in_chunks_give_the_same_text() -> None:
    prompt = "some prompt " * 30
    results = [read(mock_engine(MockModel(), tokens_per_step=n), prompt) for n in (1, 7, 64, 65, 512)]
    assert all(result == results[0] for result in results)


def test_long_prompts_take_several_steps_of_limited_size() -> None:
    model = MockModel()
    read(mock_engine(model), "x" * 1200)
    assert [batch.n_tokens for batch in model.batches[:4]] == [512, 512, 176, 1]
    assert [len(batch.logit_rows) for batch in model.batches[:4]] == [0, 0, 1, 1]


@pytest.mark.parametrize("params", [GREEDY, SamplingParams(temperature=1.5, top_k=0, seed=3, max_tokens=30)])
@pytest.mark.parametrize("tokens_per_step", [5, 512])
def test_what_else_runs_does_not_change_the_text(params: SamplingParams, tokens_per_step: int) -> None:
    prompts = [f"prompt {i} " * (3 * i + 1) for i in range(8)]
    alone = [read(mock_engine(MockModel()), prompt, params) for prompt in prompts]
    engine = mock_engine(MockModel(), n_ctx=512, n_parallel=2, tokens_per_step=tokens_per_step)
    generations = [engine.generate(prompt, params) for prompt in prompts]
    for generation in generations:
        for _ in generation:
            pass
    assert [generation.ids for generation in generations] == alone
    assert n_free(engine) == 16


def test_sequences_share_steps() -> None:
    model = MockModel()
    engine = mock_engine(model, n_parallel=4)
    generations = [engine.generate(f"p{i}", GREEDY) for i in range(4)]
    for _ in generations[0]:
        pass
    assert [len(generation.ids) for generation in generations] == [30] * 4
    assert len(model.batches) == 30
    assert model.batches[-1].n_tokens == 4


def test_a_full_cache_delays_sequences_but_changes_nothing() -> None:
    params = SamplingParams(temperature=0, max_tokens=150)
    prompts = [chr(65 + i) * 60 for i in range(4)]
    alone = [read(mock_engine(MockModel()), prompt, params) for prompt in prompts]
    model = MockModel()
    engine = mock_engine(model, n_ctx=256)  # 4 blocks, where 4 x 4 would be needed
    generations = [engine.generate(prompt, params) for prompt in prompts]
    for generation in generations:
        for _ in generation:
            pass
    assert [generation.ids for generation in generations] == alone
    assert max(batch.n_sequences for batch in model.batches) > 1
    assert n_free(engine) == 4


def test_cancelling_keeps_the_text_and_frees_the_blocks() -> None:
    engine = mock_engine(MockModel(), n_ctx=512)
    generation = engine.generate("abc", GREEDY)
    first = [next(generation).text for _ in range(5)]
    assert n_free(engine) == 7
    generation.cancel()
    assert n_free(engine) == 8
    assert generation.finish_reason == "cancelled"
    assert list(generation) == []
    assert generation.text == "".join(first)
    generation.cancel()
    assert generation.finish_reason == "cancelled"


def test_cancelling_what_has_not_begun_or_has_ended() -> None:
    engine = mock_engine(MockModel(says("ok", after=1)))
    waiting = engine.generate("a", GREEDY)
    waiting.cancel()
    assert list(waiting) == []
    ended = engine.generate("a", GREEDY)
    assert [piece.text for piece in ended] == ["o", "k", ""]
    ended.cancel()
    assert ended.finish_reason == "stop"


def test_generations_that_nobody_holds_are_dropped() -> None:
    model = MockModel()
    engine = mock_engine(model, n_ctx=512)
    next(engine.generate("abc", GREEDY))
    gc.collect()
    assert len(read(engine, "abc")) == 30
    assert max(batch.n_sequences for batch in model.batches) == 1
    assert n_free(engine) == 8


def test_ctrl_c_in_a_step_keeps_what_was_said() -> None:
    def interrupted(history: list[int]) -> int:
        if len(history) == 6:
            raise KeyboardInterrupt
        return ord("x")

    engine = mock_engine(MockModel(interrupted), n_ctx=512)
    generation = engine.generate("abc", GREEDY)
    with pytest.raises(KeyboardInterrupt):
        list(generation)
    assert (generation.text, generation.finish_reason) == ("xxx", "cancelled")
    assert n_free(engine) == 8


def test_a_cancel_in_the_middle_of_a_step_waits_for_its_end() -> None:
    model = MockModel()
    engine = mock_engine(model, n_ctx=512)
    generation = engine.generate("abc", GREEDY)
    model.choose = lambda history: generation.cancel() or ord("x")  # type: ignore[func-returns-value]
    assert [piece.text for piece in generation] == ["x"]
    assert generation.finish_reason == "cancelled"
    assert n_free(engine) == 8


@pytest.mark.parametrize(
    ("params", "text", "reason"),
    [
        ({"max_tokens": 4}, "one ", "length"),
        ({"max_tokens": 13}, "one two three", "length"),
        ({"max_tokens": 14}, "one two three", "stop"),
        ({"stop": [" t"]}, "one", "stop"),
        ({"stop": ["three!", "e t"]}, "on", "stop"),
        ({"stop": ["o", "one"]}, "", "stop"),
        ({"stop": ["three!"]}, "one two three", "stop"),
        ({"stop": ["two t"], "max_tokens": 7}, "one two", "length"),
    ],
)
def test_where_answers_end(params: dict, text: str, reason: str) -> None:
    engine = mock_engine(MockModel(says("one two three", after=1)))
    generation = engine.generate("a", SamplingParams(temperature=0, **params))
    assert "".join(piece.text for piece in generation) == generation.text == text
    assert generation.finish_reason == reason


def test_the_context_fills_up_to_the_last_token_and_says_so() -> None:
    engine = mock_engine(MockModel(), n_ctx=100)
    generation = engine.generate("a" * 90, SamplingParams(temperature=0))
    assert len(list(generation)) == 10
    assert generation.finish_reason == "context"
    last = engine.generate("a" * 99, SamplingParams(temperature=0))
    assert len(list(last)) == 1
    assert last.finish_reason == "context"


def test_half_a_character_at_the_limit_is_not_lost_silently() -> None:
    engine = mock_engine(MockModel(says("😀", after=1)))
    generation = engine.generate("a", SamplingParams(temperature=0, max_tokens=2))
    assert [piece.text for piece in generation] == ["", "\ufffd"]


def test_prompts_that_cannot_be_answered() -> None:
    engine = mock_engine(MockModel(), n_ctx=100)
    with pytest.raises(PromptTooLong, match=r"100 tokens .* context of 100"):
        engine.generate("a" * 100)
    with pytest.raises(UsageError, match="empty"):
        engine.generate("")
    with pytest.raises(UsageError, match="vocabulary"):
        engine.generate([1, N_VOCAB])
    with pytest.raises(UsageError, match="vocabulary"):
        engine.generate("a", SamplingParams(logit_bias={N_VOCAB: 1.0}))


def test_sizes_of_context() -> None:
    assert mock_engine(MockModel(n_ctx_train=100_000)).n_ctx == 4096
    assert mock_engine(MockModel(n_ctx_train=2048)).n_ctx == 2048
    assert mock_engine(MockModel(n_ctx_train=100_000), n_ctx=50_000).n_ctx == 50_000
    with pytest.raises(ContextTooLong, match=r"5000 .* 4096"):
        mock_engine(MockModel(), n_ctx=5000)
    with pytest.raises(UsageError):
        mock_engine(MockModel(), n_ctx=0)


def test_an_error_in_one_request_leaves_the_others_alone() -> None:
    def broken(history: list[int]) -> int:
        return N_VOCAB if history[0] == ord("b") and len(history) > 3 else ord("x")

    engine = mock_engine(MockModel(broken), n_parallel=2)
    forward = engine.model.forward

    def with_nan(batch: object) -> np.ndarray:
        logits = forward(batch)  # type: ignore[arg-type]
        logits[logits.max(axis=1) < 20] = np.nan  # where `broken` chose an id that does not exist
        return logits

    engine.model.forward = with_nan  # type: ignore[method-assign]
    good, bad = engine.generate("a", GREEDY), engine.generate("b", GREEDY)
    assert len(list(good)) == 30
    assert [next(bad).text for _ in range(3)] == ["x"] * 3
    with pytest.raises(CorruptFile):
        next(bad)
    assert bad.finish_reason == "error"
    assert n_free(engine) == engine.kv_cache.n_blocks


def test_bos_comes_first_and_once() -> None:
    engine = mock_engine(MockModel(), tokenizer=ByteTokenizer(adds_bos=True))
    assert engine.tokenize("a") == engine.tokenize("<|bos|>a") == [258, 97]
    assert mock_engine(MockModel()).tokenize("a") == [97]


def test_closing_ends_everything() -> None:
    model = MockModel()
    with mock_engine(model) as engine:
        generation = engine.generate("a", GREEDY)
        next(generation)
    assert model.is_closed
    assert generation.finish_reason == "cancelled"
    assert list(generation) == []


def naive_cut(text: str, stop: list[str]) -> str:
    for end in range(len(text) + 1):
        hits = [word for word in stop if text[:end].endswith(word)]
        if hits:
            return text[: end - max(map(len, hits))]
    return text


@settings(deadline=None)
@given(
    pieces=st.lists(st.text("ab", max_size=4), max_size=12),
    stop=st.lists(st.text("ab", min_size=1, max_size=5), max_size=3),
)
def test_stop_strings_cut_the_same_however_the_text_arrives(pieces: list[str], stop: list[str]) -> None:
    matcher = StopStrings(stop)
    shown = "".join(matcher.push(piece) for piece in pieces) + matcher.flush()
    assert shown == naive_cut("".join(pieces), stop)
    assert (matcher.found is not None) == any(word in "".join(pieces) for word in stop)


def test_only_what_may_begin_a_stop_string_is_held_back() -> None:
    matcher = StopStrings(["abc"])
    assert [matcher.push(piece) for piece in ("xa", "b", "x", "ab", "cd", "x")] == ["x", "", "abx", "", "", ""]


def test_memory_is_checked_before_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert available_memory() > 1 << 20
    check_memory(1 << 20, 1 << 20)
    monkeypatch.setattr(memory, "available_memory", lambda: 1 << 30)
    with pytest.raises(OutOfMemory, match=r"needs 3\.1 GiB .*weights 2\.0 GiB, context 1\.0 GiB.* 1\.0 GiB are"):
        check_memory(2 << 30, 1 << 30)


def test_memory_of_a_container(tmp_path) -> None:
    def group(**files: str) -> int:
        for name, text in files.items():
            (tmp_path / f"memory.{name}").write_text(text)
        return memory._left_in_group(tmp_path)

    assert group() > 1 << 60
    assert group(max="1000\n", current="800\n", stat="anon 500\ninactive_file 200\nactive_file 50\n") == 450
    assert group(max="max\n") > 1 << 60


def test_exports_are_what_they_say() -> None:
    import llmrun.runner as package

    for name in package.__all__:
        assert getattr(package, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = package.Nothing
