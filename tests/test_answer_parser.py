import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tool_answers import ANSWERS, SPECIAL, TEMPLATES, TOOLS, Answer, tokenizer_with

from llmrun.runner.answer_parser import AnswerParser
from llmrun.runner.delta import Delta
from llmrun.runner.tool import ToolCall, ToolCallDelta

TOKENIZER = tokenizer_with()
WITHOUT_SPECIALS = tokenizer_with(())
_SPECIAL = re.compile("(" + "|".join(map(re.escape, SPECIAL)) + ")")
LETTER = 0  # an id that is not special


def pieces_of(text: str, cuts: list[int], tokenizer: Any = TOKENIZER) -> list[tuple[str, int]]:
    """The text in pieces as an engine gives them: special tokens as ids without text, the rest cut anywhere."""
    pieces: list[tuple[str, int]] = []
    offset = 0
    for part in _SPECIAL.split(text):
        token = tokenizer.token_id(part)
        if token is not None and part in SPECIAL:
            pieces.append(("", token))
        else:
            inside = sorted({cut - offset for cut in cuts if 0 < cut - offset < len(part)})
            pieces += [(part[a:b], LETTER) for a, b in zip([0, *inside], [*inside, len(part)], strict=True) if b > a]
        offset += len(part)
    return pieces


def parse(answer: Answer, cuts: list[int], tokenizer: Any = TOKENIZER) -> tuple[list[Delta], list[ToolCall]]:
    parser = AnswerParser(TEMPLATES[answer.template], tokenizer, TOOLS, answer.prompt_end)
    deltas = [delta for text, token in pieces_of(answer.text, cuts, tokenizer) for delta in parser.push(text, token)]
    return deltas + parser.flush(), parser.tool_calls


def joined(deltas: list[Delta]) -> tuple[str, str, list[list[str]]]:
    """Content, thoughts, and name and arguments of all calls that were begun."""
    calls: list[list[str]] = []
    for call in (call for delta in deltas for call in delta.tool_calls):
        if call.name is not None:
            assert call.index == len(calls)
            assert re.fullmatch("call_[0-9a-f]{24}", call.id or "")
            calls.append([call.name, ""])
        assert call.index == len(calls) - 1
        calls[-1][1] += call.arguments
    return "".join(delta.content for delta in deltas), "".join(delta.reasoning for delta in deltas), calls


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("tokenizer", [TOKENIZER, WITHOUT_SPECIALS], ids=["special", "spelled"])
def test_what_is_in_an_answer(name: str, size: int, tokenizer: Any) -> None:
    answer = ANSWERS[name]
    deltas, calls = parse(answer, list(range(0, len(answer.text), size)), tokenizer)
    content, reasoning, begun = joined(deltas)
    assert content == answer.content
    assert reasoning == answer.reasoning
    assert [(call.name, json.loads(call.arguments)) for call in calls] == list(answer.calls)
    complete = [[call.name, call.arguments] for call in calls]
    assert [call for call in begun if call in complete] == complete
    assert len(begun) == len(complete) or answer.content  # a call that broke off is content, too
    for delta in deltas:
        assert bool(delta.content) + bool(delta.reasoning) + len(delta.tool_calls) == 1, "an empty or a mixed delta"


@pytest.mark.parametrize("name", ANSWERS)
def test_letter_by_letter_is_the_same(name: str) -> None:
    answer = ANSWERS[name]
    letters = list(range(len(answer.text)))
    assert joined(parse(answer, letters)[0]) == joined(parse(answer, [])[0])


WORDS = st.sampled_from(
    [
        *SPECIAL,
        *(
            "<tool_call>",
            "</tool_call>",
            "<function=",
            "</function>",
            "<parameter=",
            "</parameter>",
            "<think>",
            "</think>",
        ),
        *(
            '{"name": "',
            "get_weather",
            "now",
            "search-files",
            '", "arguments": ',
            '", "parameters": ',
            "{}",
            '{"city": "',
        ),
        *(
            '"}',
            "}",
            "{",
            "[",
            "]",
            '"',
            ",",
            ";",
            "\\",
            "\\u00",
            "\n",
            " ",
            "```",
            "json\n",
            "tool_code\n",
            "now()",
            ">",
            "city",
        ),
        *("call:", "to=functions.now ", "analysis", "final", "assistant", ":", "1", "null", "a", "é", "文"),
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_the_cuts_do_not_matter(data: st.DataObject) -> None:
    if data.draw(st.booleans()):
        answer = ANSWERS[data.draw(st.sampled_from(sorted(ANSWERS)))]
        at = data.draw(st.integers(0, len(answer.text)))
        answer = answer._replace(text=answer.text[:at] + data.draw(WORDS | st.just("")) + answer.text[at:])
    else:
        text = "".join(data.draw(st.lists(WORDS, max_size=14)))
        answer = Answer(data.draw(st.sampled_from(sorted(TEMPLATES))), text)
    tokenizer = data.draw(st.sampled_from([TOKENIZER, WITHOUT_SPECIALS]))
    cuts = data.draw(st.lists(st.integers(0, len(answer.text)), max_size=12))
    whole, calls = parse(answer, [], tokenizer)
    pieces, same_calls = parse(answer, cuts, tokenizer)
    letters, _ = parse(answer, list(range(len(answer.text))), tokenizer)
    assert joined(pieces) == joined(whole) == joined(letters)
    assert [call.arguments for call in calls] == [call.arguments for call in same_calls]
    for call in calls:
        assert isinstance(json.loads(call.arguments), dict)
        assert call.name in {tool.name for tool in TOOLS}


@settings(max_examples=200, deadline=None)
@given(st.lists(WORDS, max_size=14).map("".join), st.sampled_from(sorted(set(TEMPLATES) - {"harmony"})))
def test_nothing_of_an_answer_without_calls_is_lost(text: str, template: str) -> None:
    deltas, calls = parse(Answer(template, text), [], WITHOUT_SPECIALS)
    content, reasoning, _ = joined(deltas)
    if not calls and not reasoning:
        tags = r"<think>|</think>|\[/?THINK]|<\|im_end\|>"  # thoughts may be empty
        assert re.sub(rf"\s|{tags}", "", content) == re.sub(rf"\s|{tags}", "", text)


def test_a_line_break_in_a_name_opens_no_call() -> None:
    text = '<tool_call>{"name": "json\nnow", "arguments": {}}</tool_call>'
    for cuts in ([], list(range(len(text)))):
        pieces, calls = parse(Answer("hermes", text), cuts, TOKENIZER)
        assert (joined(pieces), calls) == ((text, "", []), [])


def test_content_comes_as_soon_as_it_can_be_no_call() -> None:
    parser = AnswerParser(TEMPLATES["hermes"], TOKENIZER, TOOLS)
    assert parser.push("Hello <", LETTER) == [Delta("Hello")]
    assert parser.push("tool", LETTER) == []
    assert parser.push("s>", LETTER) == [Delta(" <tools>")]
    parser = AnswerParser(TEMPLATES["none"], TOKENIZER, TOOLS)
    assert parser.push('{"name": "g', LETTER) == []
    assert parser.push("o", LETTER) == [Delta('{"name": "go')]  # no tool begins like that
    assert parser.push(", [", LETTER) == [Delta(", [")]


def test_arguments_come_in_pieces() -> None:
    parser = AnswerParser(TEMPLATES["hermes"], TOKENIZER, TOOLS)
    assert parser.push('<tool_call>{"name": "now", "arguments"', LETTER) == []
    (begun,) = parser.push(": ", LETTER) + parser.push("{", LETTER)[:1]
    assert begun.tool_calls[0].name == "now"
    assert parser.push('"a": tr', LETTER) == [Delta(tool_calls=(ToolCallDelta(0, arguments='"a": '),))]
    assert parser.push("ue}", LETTER)[0].tool_calls[0].arguments == "true}"
    assert parser.tool_calls == []
    parser.push("}", LETTER)
    assert [call.arguments for call in parser.tool_calls] == ['{"a": true}']


def test_without_tools_nothing_is_a_call() -> None:
    for answer in ANSWERS.values():
        if answer.template == "harmony" or answer.reasoning or "</think>" in answer.text:
            continue
        parser = AnswerParser(TEMPLATES[answer.template], WITHOUT_SPECIALS)
        content, reasoning, calls = joined([*parser.push(answer.text, LETTER), *parser.flush()])
        assert (content, reasoning, calls) == (answer.text, "", [])


def test_a_model_without_a_template() -> None:
    parser = AnswerParser(None, TOKENIZER)
    assert parser.push(" Hi\n", LETTER) + parser.push("you ", LETTER) + parser.flush() == [
        Delta(" Hi"),
        Delta("\nyou"),
        Delta(" "),
    ]
