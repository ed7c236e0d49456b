"""A conversation computes what is new, forgets nothing, and says what the model would without a cache."""

import pytest
from mock_model import END, START, MergingTokenizer, MockModel, TurnTemplate, mock_engine, says

from llmrun.quant_formats.errors import PromptTooLong, UsageError
from llmrun.runner.chat import Chat
from llmrun.runner.generation import Generation
from llmrun.runner.sampler import SamplingParams

GREEDY = SamplingParams(temperature=0, max_tokens=20)
ANSWER = "assistant\n"


def talk(chat: Chat, text: str) -> Generation:
    generation = chat.send(text)
    for _ in generation:
        pass
    return generation


def answers(text: str):
    """Make a model answer every turn with `text`."""
    said = text.encode()

    def choose(history: list[int]) -> int:
        turn = len(history) - max(i for i, token in enumerate(history) if token == START) - 1 - len(ANSWER)
        return said[turn] if turn < len(said) else END

    return choose


def test_a_second_turn_computes_only_what_is_new() -> None:
    model = MockModel(answers("fine"))
    chat = mock_engine(model, TurnTemplate()).chat(system="Be short.", params=GREEDY)
    first = talk(chat, "How are you?")
    assert first.text == "fine"
    assert first.stats.n_cached == 0
    n_before = model.n_tokens
    second = talk(chat, "Really?")
    new = len("<e><s>user\nReally?<e><s>assistant\n".replace("<e>", ".").replace("<s>", "."))
    assert model.n_tokens - n_before == new + len("fine")
    assert second.stats.n_prompt - second.stats.n_cached == new
    assert chat.messages == [
        {"role": "user", "content": "How are you?"},
        {"role": "assistant", "content": "fine"},
        {"role": "user", "content": "Really?"},
        {"role": "assistant", "content": "fine"},
    ]


def test_turns_say_what_a_fresh_chat_would() -> None:
    def conversation(keep: bool) -> list[str]:
        chat = mock_engine(MockModel(), TurnTemplate()).chat(params=GREEDY)
        texts = []
        for text in ("one", "two two", "three"):
            texts.append(talk(chat, text).ids)
            if not keep:
                chat._engine.release(chat._table)
        return texts

    assert conversation(keep=True) == conversation(keep=False)


def test_ids_of_an_answer_are_kept_though_its_text_has_others() -> None:
    model = MockModel(answers("abab"))  # the tokenizer would write 2 ids for it, the model wrote 4
    chat = mock_engine(model, TurnTemplate(), tokenizer=MergingTokenizer()).chat(params=GREEDY)
    first = talk(chat, "x")
    second = talk(chat, "y")
    known = [*first.prompt_ids, *first.ids]
    assert second.prompt_ids[: len(known)] == known
    assert second.stats.n_cached == len(known) - 1


@pytest.mark.parametrize("answer", [" fine \n", "\n\n", "abab"])
def test_templates_that_trim_answers(answer: str) -> None:
    model = MockModel(answers(answer))
    template = TurnTemplate(edit=str.strip)
    engine = mock_engine(model, template, tokenizer=MergingTokenizer())
    chat = engine.chat(params=GREEDY)
    first = talk(chat, "x")
    second = talk(chat, "y")
    decoded = engine.tokenizer.decode(second.prompt_ids)
    assert decoded == template.render([*chat.messages[:2], {"role": "user", "content": "y"}])
    assert second.stats.n_cached >= first.stats.n_prompt


def test_templates_that_drop_what_was_thought() -> None:
    model = MockModel(answers("<think>hm</think>yes"))
    params = SamplingParams(temperature=0)
    template = TurnTemplate(edit=lambda text: text.split("</think>")[-1])
    chat = mock_engine(model, template).chat(params=params)
    first = talk(chat, "x")
    second = talk(chat, "y")
    assert second.stats.n_cached == first.stats.n_prompt
    assert chat.messages[1]["content"] == "<think>hm</think>yes"


def test_an_interrupted_answer_stays_and_the_chat_goes_on() -> None:
    model = MockModel(answers("a long answer"))
    chat = mock_engine(model, TurnTemplate()).chat(params=GREEDY)
    generation = chat.send("x")
    for _ in range(6):
        next(generation)
    generation.cancel()
    assert chat.messages[-1] == {"role": "assistant", "content": "a long"}
    second = talk(chat, "y")
    assert second.stats.n_cached == generation.stats.n_prompt + 5  # the sixth id was never computed
    assert second.text == "a long answer"


def test_sending_again_cuts_off_an_answer_still_being_written() -> None:
    chat = mock_engine(MockModel(answers("a long answer")), TurnTemplate()).chat(params=GREEDY)
    first = chat.send("x")
    next(first)
    assert [message["role"] for message in chat.messages] == ["user"]
    talk(chat, "y")
    assert first.finish_reason == "cancelled"
    assert [message["content"] for message in chat.messages] == ["x", "a", "y", "a long answer"]


def test_a_stop_string_ends_the_message_and_the_cache_is_used_up_to_there() -> None:
    chat = mock_engine(MockModel(answers("one.two")), TurnTemplate()).chat(params=SamplingParams(temperature=0))
    first = chat.send("x", SamplingParams(temperature=0, stop=["."]))
    assert "".join(piece.text for piece in first) == "one"
    second = talk(chat, "y")
    assert second.stats.n_cached == first.stats.n_prompt + 3
    assert second.text == "one.two"


def test_a_prompt_too_long_changes_nothing() -> None:
    chat = mock_engine(MockModel(answers("fine")), TurnTemplate(), n_ctx=100).chat(params=GREEDY)
    talk(chat, "x")
    before = chat.messages
    with pytest.raises(PromptTooLong, match="context of 100"):
        chat.send("y" * 100)
    assert chat.messages == before
    assert talk(chat, "z").stats.n_cached > 10


def test_a_full_context_ends_the_answer_and_says_so() -> None:
    chat = mock_engine(MockModel(), TurnTemplate(), n_ctx=60).chat(params=SamplingParams(temperature=0))
    assert talk(chat, "x").finish_reason == "context"
    with pytest.raises(PromptTooLong):
        chat.send("y")
    chat.clear()
    assert talk(chat, "x").finish_reason == "context"


def test_clearing_forgets_the_messages_and_frees_the_blocks() -> None:
    engine = mock_engine(MockModel(answers("fine")), TurnTemplate(), n_ctx=256)
    chat = engine.chat(system="s", params=GREEDY)
    talk(chat, "x")
    assert engine.kv_cache.n_free == 3
    next(chat.send("y"))
    chat.clear()
    assert (chat.messages, chat.system, engine.kv_cache.n_free) == ([], "s", 4)
    assert talk(chat, "x").stats.n_cached == 0


def test_other_instructions_count_from_the_next_turn_on() -> None:
    chat = mock_engine(MockModel(answers("fine")), TurnTemplate()).chat(system="first", params=GREEDY)
    talk(chat, "x")
    chat.system = "other"
    second = talk(chat, "y")
    assert second.stats.n_cached == len(".system\n")
    assert chat._engine.tokenizer.decode(second.prompt_ids).startswith("<|start|>system\nother<|end|>")


def test_chats_share_an_engine() -> None:
    engine = mock_engine(MockModel(), TurnTemplate(), n_ctx=192)  # room for one and a half of them
    alone = [talk(mock_engine(MockModel(), TurnTemplate()).chat(params=GREEDY), text).ids for text in ("x", "y")]
    chats = [engine.chat(params=GREEDY) for _ in range(2)]
    assert [talk(chat, text).ids for chat, text in zip(chats, ("x", "y"), strict=True)] == alone
    for chat in chats * 2:
        talk(chat, "and then?")
    assert [len(chat.messages) for chat in chats] == [6, 6]


def test_a_system_message_without_a_template_is_refused() -> None:
    chat = mock_engine(MockModel(answers("fine"))).chat(system="Be short.", params=GREEDY)
    with pytest.raises(UsageError, match="system message"):
        chat.send("x")
    assert chat.messages == []


@pytest.mark.parametrize("raw", [True, False])
def test_without_a_template_the_text_goes_on(raw: bool) -> None:
    model = MockModel(says(" time", after=4))
    chat = mock_engine(model, TurnTemplate() if raw else None).chat(params=GREEDY, raw=raw)
    assert talk(chat, "Once").text == " time"
    model.choose = says("!", after=len("Once time there"))
    second = talk(chat, " there")
    assert second.text == "!"
    assert second.stats.n_cached == len("Once time")
