"""A full context: nothing is dropped in silence, the instructions stay, and the answer is the model's own."""

import random
from pathlib import Path

import pytest
from mock_model import TurnTemplate
from recorded_chats import LetterModel, check_memory, engine, open_session, read

from llmrun.quant_formats.errors import PromptTooLong, UsageError
from llmrun.runner.chat import Chat
from llmrun.runner.chat_message import ChatMessage, Message
from llmrun.runner.overflow import OVERFLOWS, Overflow, n_to_drop, overflow_named, tokens_for_answer, turn_starts
from llmrun.runner.sampler import SamplingParams
from llmrun.runner.session_store import SessionStore

N_CTX = 512
PARAMS = SamplingParams(temperature=0, max_tokens=50)


def new_chat(overflow: Overflow, dropped: list[Message]) -> Chat:
    chat = engine(n_ctx=N_CTX).chat(system="Be brief.", params=PARAMS)
    chat.overflow = overflow
    chat.on_drop = dropped.extend
    return chat


def render(chat: Chat) -> str:
    """What the prompt of the latest turn should be."""
    messages = [{"role": "system", "content": "Be brief."}, *chat.messages[chat.n_dropped :]]
    return TurnTemplate().render(messages[:-1])


def test_names() -> None:
    assert [overflow_named(name) for name in OVERFLOWS] == ["error", "shift", "window"]
    with pytest.raises(UsageError, match="choose one of error, shift, window"):
        overflow_named("slide")


@pytest.mark.parametrize("n_turns", range(1, 12))
@pytest.mark.parametrize("room", [0, 25, 40, 60, 80, 100, 1000])
def test_how_much_is_dropped(n_turns: int, room: int) -> None:
    messages = [ChatMessage(role, "x") for _ in range(n_turns) for role in ("user", "assistant")][:-1]
    starts = turn_starts(messages, 0)
    assert starts == list(range(0, 2 * n_turns, 2))

    def length(first: int) -> int:
        return 10 * (len(messages) - first)

    window, shift = (n_to_drop(overflow, starts, length, room) for overflow in ("window", "shift"))
    least = next((start for start in starts if length(start) <= room), starts[-1])
    assert window == least
    assert shift in starts
    assert shift >= least
    assert shift == 0 or shift >= starts[(n_turns - 1) // 2]


def test_what_an_answer_finds() -> None:
    assert [tokens_for_answer(1000, n) for n in (None, 10, 500, 900)] == [250, 10, 500, 500]


def test_error_drops_nothing() -> None:
    dropped: list[Message] = []
    chat = new_chat("error", dropped)
    for i in range(5):
        read(chat.send(f"{i} a question"))
    with pytest.raises(PromptTooLong):
        chat.send("another question " * 6)
    assert len(chat.messages) == 10
    assert (dropped, chat.n_dropped) == ([], 0)


@pytest.mark.parametrize("overflow", ["window", "shift"])
def test_the_oldest_turns_go_and_the_rest_is_what_is_said(overflow: Overflow) -> None:
    dropped: list[Message] = []
    chat = new_chat(overflow, dropped)
    drops = []
    for i in range(30):
        before = len(dropped)
        generation = chat.send(f"{i} a question")
        drops.append(len(dropped) - before)  # said before anything is computed
        assert generation.ids == []
        read(generation)
        assert generation.finish_reason == "length"
        assert chat._engine.tokenizer.decode(generation.prompt_ids) == render(chat)
        assert dropped == chat.messages[: chat.n_dropped]
        assert chat.n_tokens <= N_CTX
    assert len(chat.messages) == 60
    if overflow == "window":
        assert set(drops) == {0, 2}
        assert drops[-10:] == [2] * 10
    else:
        assert max(drops) >= 4
        assert drops[-10:].count(0) >= 5


def test_a_window_answers_as_a_fresh_chat_would() -> None:
    chat = new_chat("window", [])
    for i in range(15):
        generation = chat.send(f"{i} a question")
        ids = read(generation)
        assert ids == read(engine(n_ctx=N_CTX).generate(generation.prompt_ids, PARAMS))


def test_an_answer_goes_on_after_a_shift() -> None:
    dropped: list[Message] = []
    chat = new_chat("shift", dropped)
    for i in range(4):
        read(chat.send(f"{i} a question"))
    before = chat.n_dropped
    generation = chat.send("a long one", SamplingParams(temperature=0, max_tokens=400))
    pieces, at_shift = [], 0
    for piece in generation:
        pieces.append(piece.text)
        if chat.n_dropped > before and not at_shift:
            at_shift = len(pieces) - 1  # the piece before which old turns went
    assert at_shift
    assert generation.finish_reason == "length"
    assert "".join(pieces) == generation.text == chat.messages[-1]["content"]
    assert len(generation.ids) == 400
    assert dropped == chat.messages[: chat.n_dropped]
    # what follows is what the model says after the shorter prompt and the beginning of its answer
    rest = engine(n_ctx=N_CTX).generate(
        [*generation.prompt_ids, *generation.ids[:-20]], SamplingParams(temperature=0, max_tokens=20)
    )
    assert read(rest) == generation.ids[-20:]
    assert chat._engine.tokenizer.decode(generation.prompt_ids) == render(chat)
    read(chat.send("and now?"))


def test_an_answer_that_fills_the_context_alone_ends() -> None:
    chat = new_chat("shift", [])
    read(chat.send("one"))
    generation = chat.send("two", SamplingParams(temperature=0))
    read(generation)
    assert generation.finish_reason == "context"
    assert chat.n_tokens == N_CTX
    assert chat.n_dropped == 2
    read(chat.send("three"))
    assert chat.n_dropped == 4


def test_the_last_id_of_an_answer_drops_nothing() -> None:
    chat = new_chat("shift", [])
    read(chat.send("a question"))
    generation = chat.send("another " * 45, SamplingParams(max_tokens=1))
    read(generation)
    n_left = N_CTX - len(generation.prompt_ids)
    again = chat.retry(SamplingParams(temperature=0, max_tokens=n_left))
    assert len(read(again)) == n_left
    assert again.prompt_ids == generation.prompt_ids
    assert chat.n_dropped == 0


def test_a_stop_string_across_a_shift() -> None:
    chat = new_chat("shift", [])
    for i in range(4):
        read(chat.send(f"{i} a question"))
    whole = chat.send("tell", SamplingParams(temperature=0, max_tokens=300))
    read(whole)
    stop = whole.text[150:230]
    again = chat.retry(SamplingParams(temperature=0, max_tokens=300, stop=[stop]))
    read(again)
    assert stop not in again.text


def test_one_message_too_long() -> None:
    for overflow in OVERFLOWS:
        dropped: list[Message] = []
        chat = new_chat(overflow, dropped)
        read(chat.send("one"))
        before = chat.messages
        with pytest.raises(PromptTooLong):
            chat.send("x" * N_CTX)
        assert (chat.messages, dropped, chat.n_dropped) == (before, [], 0)
        read(chat.send("two"))


def test_taking_back_what_made_room() -> None:
    chat = new_chat("shift", [])
    for i in range(12):
        read(chat.send(f"{i} a question"))
    assert chat.n_dropped > 0
    while chat.undo() is not None:
        assert chat.n_dropped == 0 or chat.n_dropped < len(chat.messages)
    assert (chat.messages, chat.n_dropped) == ([], 0)
    assert read(chat.send("0 a question")) == read(new_chat("error", []).send("0 a question"))


@pytest.mark.parametrize("overflow", ["window", "shift"])
def test_what_is_dropped_stays_on_disk(tmp_path: Path, overflow: Overflow) -> None:
    store = SessionStore(tmp_path)
    with open_session(store, n_ctx=N_CTX) as session:
        session.chat.overflow = overflow
        for i in range(12):
            read(session.send(f"{i} a question"))
        read(session.send("a long one", SamplingParams(temperature=0, max_tokens=400)))
        expected, n_dropped, ids = session.chat.messages, session.chat.n_dropped, session.chat.context_ids
    assert n_dropped > 0
    assert store.messages(store.list()[0].id) == expected
    with open_session(store, n_ctx=N_CTX) as session:
        assert (session.chat.messages, session.chat.n_dropped, session.chat.context_ids) == (expected, n_dropped, ids)
        assert len(session.chat.table.tokens) == len(ids) - 1
        check_memory(session)
        session.chat.overflow = overflow
        read(session.send("and?"))


def test_a_thousand_turns_with_changes(tmp_path: Path) -> None:
    """Blocks all come back, and the files are those of the context."""
    rng = random.Random(1)
    store = SessionStore(tmp_path)
    with open_session(store, n_ctx=N_CTX, model=LetterModel()) as session:
        chat = session.chat
        cache = session._engine.kv_cache
        chat.overflow = "shift"
        for i in range(1000):
            params = SamplingParams(seed=i, max_tokens=rng.choice((1, 9, 30)))
            match rng.randrange(8) if chat.messages else 0:
                case 0 | 1 | 2 | 3:
                    read(chat.send("word " * rng.randint(1, 15), params))
                case 4:
                    read(chat.retry(params))
                case 5:
                    read(chat.edit("other " * rng.randint(1, 9), params))
                case 6:
                    chat.undo()
                case 7:
                    generation = chat.send("x", params)
                    next(generation)
                    generation.cancel()
            session._engine.model.batches.clear()  # type: ignore[attr-defined]
        session.flush()
        check_memory(session)
        files = [path for path in tmp_path.rglob("kv/*/*") if path.is_file()]
        assert len(files) <= N_CTX // 64
    cache.clear()
    assert cache.n_free == cache.n_blocks
    with open_session(store, n_ctx=N_CTX) as session:
        check_memory(session)
        assert session.chat.n_tokens - len(session.chat.table.tokens) <= 1
