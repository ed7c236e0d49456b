"""How dialects are recognised, what they tell the models, and what they make them write."""

import json
import random
from functools import cache
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from tool_answers import SEARCH, SPECIAL, TEMPLATES, TOOLS, WEATHER, schema_of, tokenizer_with

from llmrun.quant_formats.errors import UsageError
from llmrun.runner.answer_parser import AnswerParser
from llmrun.runner.chat_template import ChatTemplate
from llmrun.runner.stream_decoder import StreamDecoder
from llmrun.runner.tokenizer import Tokenizer
from llmrun.runner.tool import Tool
from llmrun.runner.tool_dialect import dialect_of

NAMES = {
    "none": "Generic",
    "hermes": "Hermes",
    "thinking": "Hermes",
    "qwen_coder": "QwenCoder",
    "llama3": "Llama3",
    "mistral_nemo": "Mistral",
    "mistral": "Mistral",
    "gemma3": "GemmaPrompted",
    "function_gemma": "GemmaCalls",
    "gemma4": "GemmaCalls",
    "harmony": "Harmony",
}
NESTED = Tool(
    "nested",
    "",
    {
        "type": "object",
        "properties": {"tree": {"$ref": "#/$defs/tree"}, "é": {"enum": ["ß", 1, None]}, "x": {"type": "number"}},
        "required": ["tree", "é"],
        "$defs": {
            "tree": {
                "type": "object",
                "properties": {"kids": {"type": "array", "maxItems": 2, "items": {"$ref": "#/$defs/tree"}}},
                "required": ["kids"],
                "additionalProperties": False,
            }
        },
    },
)
FREE = Tool("free", "", {"type": "object", "additionalProperties": {"type": "boolean"}})


@pytest.mark.parametrize("name", TEMPLATES)
def test_dialects_are_recognised_by_the_template(name: str) -> None:
    assert type(dialect_of(TEMPLATES[name])).__name__ == NAMES[name]
    assert type(dialect_of(ChatTemplate(TEMPLATES[name]))).__name__ == NAMES[name]
    assert type(dialect_of(None)).__name__ == "Generic"


class _Bytes:
    """The tokens of a tokenizer for llguidance, cut into bytes where text has to be tokenised."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        ids = range(tokenizer.n_vocab)
        self.eos_token_id = tokenizer.eos_id
        self.tokens = [tokenizer.token_bytes(token) for token in ids]
        self.special_token_ids = [token for token in ids if tokenizer.is_special(token)]
        self._of_byte = {self.tokens[token][0]: token for token in ids if len(self.tokens[token]) == 1}

    def __call__(self, text: str | bytes) -> list[int]:
        return [self._of_byte[byte] for byte in (text.encode() if isinstance(text, str) else text)]


@cache
def tokenizers(with_specials: bool) -> tuple[Tokenizer, LLTokenizer]:
    tokenizer = tokenizer_with(SPECIAL if with_specials else ("<|im_end|>",))
    return tokenizer, LLTokenizer(TokenizerWrapper(_Bytes(tokenizer)))


ENDS_OF_THOUGHTS = {"thinking": "</think>", "mistral": "[/THINK]", "harmony": "<|end|>"}


def written(grammar: str, with_specials: bool, seed: int, end: str, n_tokens: int = 3000) -> list[int]:
    """Ids that a model with no mind of its own writes under a grammar; all it knows is how to end its thoughts."""
    tokenizer, wrapped = tokenizers(with_specials)
    matcher = LLMatcher(wrapped, grammar)
    assert not matcher.get_error()
    dice, ids = random.Random(seed), []
    closing = {tokenizer.token_id(char) for char in '"}],'}
    newline, letter = tokenizer.encode("\n", add_special=False)[0], tokenizer.encode("a", add_special=False)[0]
    while not matcher.is_stopped() and len(ids) < n_tokens:
        mask = matcher.compute_bitmask()
        allowed = [i for i in range(tokenizer.n_vocab) if mask[i // 8] >> i % 8 & 1]
        hurried = [i for i in allowed if i in closing or i == tokenizer.eos_id or tokenizer.is_special(i)]
        if newline in allowed and letter in allowed and len(ids) > 20:
            for token in tokenizer.encode(end, add_special=False):
                assert matcher.consume_token(token)
                ids.append(token)
            continue
        token = dice.choice(hurried if hurried and dice.random() < 0.3 else allowed)
        if token == tokenizer.eos_id:
            break
        assert matcher.consume_token(token)
        ids.append(token)
    assert len(ids) < n_tokens
    return ids


def parsed(template: str, ids: list[int], with_specials: bool, tools: Any, prompt_end: str) -> AnswerParser:
    tokenizer, _ = tokenizers(with_specials)
    parser, decoder = AnswerParser(template, tokenizer, tools, prompt_end), StreamDecoder(tokenizer)
    content = "".join(delta.content for token in ids for delta in parser.push(decoder.push(token), token))
    assert not content + "".join(delta.content for delta in parser.flush())
    return parser


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from(sorted(TEMPLATES)),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["required", "one"]),
    st.integers(0),
)
def test_a_model_that_must_call_does(name: str, with_specials: bool, parallel: bool, choice: str, seed: int) -> None:
    template, tools = TEMPLATES[name], [*TOOLS, NESTED, FREE]
    wanted = tools[seed % len(tools)].name
    prompt_end = "<think>\n" if name == "thinking" and seed % 2 else ""
    grammar = dialect_of(template).grammar(
        tools, "required" if choice == "required" else f"={wanted}", parallel, tokenizers(with_specials)[0], prompt_end
    )
    assert grammar.kind == "lark"
    ids = written(grammar.source, with_specials, seed, ENDS_OF_THOUGHTS.get(name, ""))
    calls = parsed(template, ids, with_specials, tools, prompt_end).tool_calls
    assert len(calls) >= 1 if parallel else len(calls) == 1
    for call in calls:
        assert choice == "required" or call.name == wanted
        tool = next(tool for tool in tools if tool.name == call.name)
        jsonschema.validate(json.loads(call.arguments), dict(tool.parameters))


def test_a_named_tool_has_to_be_there() -> None:
    dialect, (tokenizer, _) = dialect_of(TEMPLATES["hermes"]), tokenizers(True)
    with pytest.raises(UsageError, match=r"'rm'.*get_weather, now, search-files$"):
        dialect.grammar(TOOLS, "=rm", False, tokenizer)
    with pytest.raises(UsageError, match=r"asks for a tool.*none$"):
        dialect.grammar([], "required", False, tokenizer)


@pytest.mark.parametrize(
    ("name", "parameters", "reason"),
    [
        ("", {}, "cannot be called ''"),
        ("a b", {}, "'a b'"),
        ('x"}', {}, "letters, digits"),
        ("x" * 129, {}, "1 to 128"),
        ("x\n", {}, "cannot be called"),
        ("x", {"type": "array"}, "of type object, not 'array'"),
        ("x", {"type": ["object", "null"]}, "of type object"),
        ("x", {"properties": []}, '"properties" in the parameters of tool x'),
        ("x", [], "should be a JSON schema"),
    ],
)
def test_tools_that_make_no_sense(name: str, parameters: Any, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as error:
        Tool(name, "", parameters)
    assert "\n" not in str(error.value)


CALL = {"id": "call_0123456789", "type": "function", "function": {"name": "now", "arguments": {"a": 1}}}
SECOND = {**CALL, "id": "call_2"}
HISTORY = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What time is it?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL, SECOND]},
    {"role": "tool", "content": "12:00", "tool_call_id": "call_0123456789"},
    {"role": "tool", "content": "13:00", "tool_call_id": "call_2"},
    {"role": "user", "content": "And?"},
]


def test_a_template_without_tools_is_told_in_words() -> None:
    messages, entries = dialect_of(TEMPLATES["none"]).with_tools(HISTORY, TOOLS)
    assert entries is None
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert messages[0]["content"].startswith("Be brief.\n\n")
    assert "get_weather: Says what the weather is like." in messages[0]["content"]
    assert '"required": ["city"]' in messages[0]["content"]
    line = '{"name": "now", "arguments": {"a": 1}}'
    assert messages[2]["content"] == f"{line}\n{line}"
    assert messages[3]["content"] == "Result of now:\n12:00\n\nResult of now:\n13:00\n\nAnd?"
    messages, _ = dialect_of("no such role: User").with_tools([{"role": "user", "content": "Hi"}], TOOLS)
    assert [message["role"] for message in messages] == ["user"]
    assert messages[0]["content"].endswith("\n\nHi")
    messages, _ = dialect_of(TEMPLATES["none"]).with_tools([{"role": "user", "content": "Hi"}], TOOLS)
    assert [message["role"] for message in messages] == ["system", "user"]


def test_what_templates_with_tools_get() -> None:
    messages, entries = dialect_of(TEMPLATES["hermes"]).with_tools(HISTORY, [WEATHER])
    assert messages == HISTORY
    assert entries == [
        {
            "type": "function",
            "function": {
                "name": "get_weather",
                "description": "Says what the weather is like.",
                "parameters": schema_of("get_weather"),
            },
        }
    ]
    assert dialect_of(TEMPLATES["hermes"]).with_tools(HISTORY, []) == (HISTORY, None)
    messages, _ = dialect_of(TEMPLATES["llama3"]).with_tools(HISTORY, [SEARCH])
    assert [message["role"] for message in messages] == [
        "system",
        "user",
        "assistant",
        "tool",
        "assistant",
        "tool",
        "user",
    ]
    assert [message.get("tool_call_id") for message in messages[3:6:2]] == ["call_0123456789", "call_2"]
    messages, _ = dialect_of(TEMPLATES["mistral"]).with_tools(HISTORY, [SEARCH])
    ids = [call["id"] for call in messages[2]["tool_calls"]]
    assert ids == [message["tool_call_id"] for message in messages[3:5]]
    assert all(len(call_id) == 9 and call_id.isalnum() for call_id in ids)
    assert HISTORY[2]["tool_calls"] == [CALL, SECOND], "the caller's messages stay as they are"
