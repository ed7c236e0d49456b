"""Answers under a grammar: which ids may come, which must, and when it is over."""

import functools
import json

import numpy as np
import pytest
from mock_model import BOS, END, START, ByteTokenizer, MockModel, TurnTemplate, mock_engine, says

from llmrun.quant_formats.errors import UsageError
from llmrun.runner.constraint import Constraint
from llmrun.runner.gbnf import gbnf_to_lark
from llmrun.runner.grammar import Grammar
from llmrun.runner.grammar_compiler import GrammarCompiler
from llmrun.runner.sampler import SamplingParams

PADDED = 400  # a model may have more logits than the tokenizer has ids
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@functools.cache
def compiler() -> GrammarCompiler:
    return GrammarCompiler(ByteTokenizer(), PADDED)


def after(grammar: Grammar, text: str) -> Constraint:
    """The constraint of an answer that begins with a text, which it has to allow."""
    constraint = compiler().constraint(grammar)
    for byte in text.encode():
        assert constraint.mask()[byte], f"{chr(byte)!r} in {text!r}"
        constraint.accept(byte)
    return constraint


def allowed(constraint: Constraint) -> str:
    """The characters that may come next, $ for the end."""
    ids = np.flatnonzero(constraint.mask()).tolist()
    return "".join("$" if token == END else chr(token) for token in ids if token < 256 or token == END)


def accepts(grammar: Grammar, text: str) -> bool:
    constraint = compiler().constraint(grammar)
    for byte in text.encode():
        if not constraint.mask()[byte]:
            return False
        constraint.accept(byte)
    return constraint.may_end


def test_a_mask_has_what_may_come_next() -> None:
    grammar = Grammar.regex("ab?|c")
    constraint = compiler().constraint(grammar)
    assert constraint.mask().shape == (PADDED,)
    assert constraint.mask().dtype == np.bool_
    assert allowed(constraint) == "ac"
    assert not constraint.may_end
    assert allowed(after(grammar, "a")) == "b$"
    assert not after(grammar, "a").is_done
    assert allowed(after(grammar, "ab")) == "$"
    assert after(grammar, "ab").is_done


def test_no_special_id_nor_one_that_the_tokenizer_lacks_may_come() -> None:
    mask = after(Grammar.regex("(?s:.*)"), "<").mask()
    assert mask[END]
    assert not mask[[START, BOS]].any()
    assert not mask[ByteTokenizer.n_vocab :].any()


def test_after_the_end_nothing_else_comes() -> None:
    constraint = after(Grammar.regex("a+"), "a")
    constraint.accept(END)
    assert constraint.is_done
    assert allowed(constraint) == "$"
    assert constraint.forced() == []
    with pytest.raises(AssertionError):
        constraint.accept(ord("a"))


def test_an_id_that_is_not_allowed_is_a_bug_of_the_caller() -> None:
    for token in (ord("b"), END, START):
        with pytest.raises(AssertionError):
            after(Grammar.regex("aa"), "a").accept(token)


def test_forced_ids_come_without_a_choice() -> None:
    constraint = after(Grammar.json_schema(PERSON), '{"')
    assert bytes(constraint.forced()) == b'name"'
    assert constraint.forced() == constraint.forced(), "asking changes nothing"
    assert allowed(constraint) == "n"
    for token in constraint.forced():
        constraint.accept(token)
    assert constraint.forced() == []
    assert after(Grammar.regex("a|b"), "").forced() == []


def test_two_answers_under_one_grammar_do_not_meet() -> None:
    one, other = after(Grammar.regex("ab|cd"), "a"), after(Grammar.regex("ab|cd"), "c")
    assert (allowed(one), allowed(other)) == ("b", "d")


def test_white_space_is_allowed_but_not_without_end() -> None:
    grammar = Grammar.json_object()
    for text in ('{"a":1}', '{ "a": [1, 2] }', '{\n  "a": {\n\t"b": null\n  }\n}'):
        assert accepts(grammar, text)
    for text in ("{  ", "{\n\n", '{"a":\n' + " " * 21, ' {"a":1}'):
        assert not accepts(grammar, text)
    assert after(grammar, "{}").is_done


def test_json_object_is_no_other_json() -> None:
    assert accepts(Grammar.json_object(), '{"a": {"b": [true, "x\\n", -1.5, null, {}]}}')
    for text in ("[]", "1", '"a"', '{"a"}', "{'a': 1}", '{"a": 01}', '{"a": "\n"}'):
        assert not accepts(Grammar.json_object(), text)


def test_numbers_do_not_go_on_without_end() -> None:
    for schema in ({"type": "number"}, {"type": "integer"}, {"type": "number", "minimum": 0}):
        constraint = compiler().constraint(Grammar.json_schema(schema))
        for _ in range(40):
            digits = [c for c in allowed(constraint) if c.isdigit() or c == "."]
            if not digits:
                break
            constraint.accept(ord("9" if "9" in digits else digits[0]))
        else:
            raise AssertionError(schema)
        assert constraint.may_end
    assert accepts(Grammar.json_schema({"const": 1e-12}), "0.000000000001"), "where it is asked for they may"


def test_properties_come_in_the_order_of_the_schema() -> None:
    assert accepts(Grammar.json_schema(PERSON), '{"name": "x", "age": 1}')
    assert not accepts(Grammar.json_schema(PERSON), '{"age": 1, "name": "x"}')


# What is not supported.


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "array", "items": {"type": "string"}, "uniqueItems": True}, "uniqueItems at #"),
        ({"type": "object", "properties": {"a": {"not": {"type": "string"}}}}, "not at #/properties/a"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"contains": {}}}}, "contains at #/$defs/a"),
        ({"type": "string", "format": "iri"}, "iri"),
        ({"$ref": "https://example.com/schema"}, "https://example.com/schema"),
        ({"$ref": "#/$defs/none"}, "#/$defs/none"),
        ({"minProperties": 2}, "minProperties"),
        ({"const": 2**53 + 1}, "2**53"),
        ({"multipleOf": 1234567}, "multipleOf"),
        ({"allOf": [{"multipleOf": 9973}, {"multipleOf": 9967}]}, "multipleOf"),
        ({"oneOf": [{"type": "string"}, {"type": "string", "maxLength": 3}]}, "oneOf"),
        ({"type": "string", "pattern": "(?=a)a"}, "look-around"),
        ({"type": "string", "pattern": "a\\x00"}, "U+0000"),
        ({"type": "strng"}, "strng"),
        ({"type": "string", "minLength": "3"}, "minLength"),
        ({"properties": []}, "properties"),
        ({"enum": []}, "Unsatisfiable"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "minimum"),
        ({"x-guidance": {"lenient": True}, "if": {}}, "if at #"),
        (False, "false"),
    ],
)
def test_what_is_not_enforced_is_named(schema: dict[str, object] | bool, named: str) -> None:
    with pytest.raises(UsageError) as error:
        compiler().constraint(Grammar.json_schema(schema))
    assert named in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 450


def test_what_is_no_grammar_is_said_in_one_line() -> None:
    deep: object = {}
    for _ in range(150):
        deep = {"items": deep}
    wrong = [
        Grammar.regex("(a"),
        Grammar.lark("start: nothing"),
        Grammar.lark('start: "a" %json {"x-guidance": {"lenient": true}, "uniqueItems": true}'),
        Grammar.lark("start: <|nothing|>"),
        Grammar.lark("start: start"),
        Grammar.json_schema(deep),  # type: ignore[arg-type]
    ]
    for grammar in wrong:
        with pytest.raises(UsageError) as error:
            compiler().constraint(grammar)
        assert "\n" not in str(error.value)
    for text in ("{", "1 2", "[1]", "NaN", '"a"'):
        with pytest.raises(UsageError):
            Grammar.json_schema_text(text)


@pytest.mark.parametrize(
    "schema",
    [
        {"format": ["a"]}, {"required": [1, [2]], "minProperties": 2}, {"$ref": 5}, {"items": [1, 2]},
        {"properties": {"a": 5}}, {"multipleOf": 1e308}, {"type": {"a": 1}}, {"type": ["integer", ["x"]]}, {"enum": 5},
        {"pattern": "["}, {"pattern": "\\"}, {"patternProperties": {"(": True}}, {"$defs": 5, "$ref": "#/$defs/a"},
        {"allOf": {}}, {"type": "integer", "minimum": "x"}, {"type": "string", "maxLength": -1}, {"type": []},
        {"additionalProperties": 5}, {"required": True}, {"multipleOf": 0}, {"type": "number", "multipleOf": "1"},
    ],
)  # fmt: skip
def test_a_malformed_schema_is_the_users_error(schema: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        compiler().constraint(Grammar.json_schema(schema))


def test_equal_grammars_are_equal() -> None:
    assert Grammar.json_schema(PERSON) == Grammar.json_schema_text(json.dumps(PERSON, indent=2))
    assert hash(Grammar.json_schema(PERSON)) == hash(Grammar.json_schema(dict(PERSON)))
    assert Grammar.json_schema(PERSON) != Grammar.json_schema(PERSON, after="</think>")


# Patterns as ECMAScript reads them.


def test_sets_of_characters_hold_for_escaped_ones_too() -> None:
    for pattern in ('^[^"]*$', '^[^"\\\\]*$', '^(a|[^"])*$', "^[\\x00-!#-~]*$"):
        grammar = Grammar.json_schema({"type": "string", "pattern": pattern})
        assert accepts(grammar, '"ab"')
        assert not accepts(grammar, '"a\\"b"'), pattern
        assert not accepts(
            Grammar.json_schema({"patternProperties": {pattern: True}, "additionalProperties": False}), '{"a\\"b":1}'
        )
    assert accepts(Grammar.json_schema({"type": "string", "pattern": "^[\\x00-~]*$"}), '"a\\"b"')
    assert accepts(Grammar.json_schema({"type": "string", "pattern": "^[^\\x00-\\x1f]+$"}), '"a\\\\b"')


def test_doubled_signs_are_characters() -> None:
    for pattern, text in (("^[a&&b]$", "&"), ("^[+--]$", ","), ("^[[a]$", "["), ("^[a~~]$", "~")):
        assert accepts(Grammar.json_schema({"type": "string", "pattern": pattern}), f'"{text}"'), pattern


# GBNF.

JSON_GBNF = r"""
# any JSON value
root   ::= value
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::=
  "{" ws (
    string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= "-"? ("0" | [1-9] [0-9]{0,15}) ("." [0-9]+)? ([eE] [-+]? [0-9]+)? ws
ws     ::= | " " | "\n" [ \t]{0,20}
"""


def test_gbnf_that_leads_back_to_itself() -> None:
    grammar = Grammar.gbnf(JSON_GBNF)
    for text in ('{"a": [1, -2.5e3, {"b": "x\\n\\u00e9"}],\n "c":true}', "[]", "[[[0]]]", '"é"'):
        assert accepts(grammar, text)
    for text in ('{"a":1,}', "01", "[1", "{'a':1}", "tru"):
        assert not accepts(grammar, text)


@pytest.mark.parametrize(
    ("text", "good", "bad"),
    [
        ('root ::= [a-z]* "abc"', ["abc", "xyzabc"], ["ab", "abcd"]),
        ('root ::= "a" root "b" | ""', ["", "ab", "aabb"], ["aab", "ba"]),
        ("root ::= [^a-c] . [\\-x]\n", ["é\n-", 'd"x'], ["a\n-", "dx"]),
        ('root ::= "\\x41\\u00e9\\U0001F642\\t" one-Two?\none-Two ::= [a\\]]', ["Aé🙂\t]", "Aé🙂\t"], ["Aé"]),
        ('root ::= "a"{2} "b"{1,} "c"{0,2}', ["aab", "aabbbcc"], ["aa", "aabccc"]),
        ('root ::= x\n  | y # or\nx ::= "/"\ny ::= ("1" | "2" )+', ["/", "1212"], ["", "/1"]),
        ('root ::= e\ne ::= t ([-+*] t)*\nt ::= [0-9]+ | "(" e ")"', ["1+2", "(1+(2))*33"], ["1+", "(1"]),
        ('A ::= "x"\na ::= "y"\na-a ::= A a\nroot ::= a-a', ["xy"], ["yx"]),
    ],
)  # fmt: skip
def test_gbnf(text: str, good: list[str], bad: list[str]) -> None:
    for answer in good:
        assert accepts(Grammar.gbnf(text), answer), answer
    for answer in bad:
        assert not accepts(Grammar.gbnf(text), answer), answer


@pytest.mark.parametrize(
    "text",
    [
        "", 'a ::= "b"', "root ::= other", 'root ::= "a', 'root ::= ("a"', 'root ::= "\\q"', "root ::= []",
        "root ::= * a", 'root ::= "a"\nroot ::= "b"', 'root = "a"', "root ::= " + "(" * 300 + ")" * 300,
        'root ::= "\\uD800"', "root ::= )",
    ],
)  # fmt: skip
def test_gbnf_that_is_malformed(text: str) -> None:
    with pytest.raises(UsageError):
        gbnf_to_lark(text)


# A grammar that begins later, and in the engine.


def test_free_text_may_come_before() -> None:
    grammar = Grammar.json_schema({"type": "integer"}, after="</think>")
    assert accepts(grammar, "hm, {1} <b>\n</think>\n\n12")
    assert accepts(grammar, "</think>7")
    assert not accepts(grammar, "12")
    assert not accepts(grammar, "hm</think>\nx")


def test_free_text_may_come_before_a_special_token() -> None:
    constraint = after(Grammar.json_schema({"type": "integer"}, after="<|start|>"), "hm\n")
    assert constraint.mask()[START]
    for token in (START, *b"\n42", END):
        assert constraint.mask()[token]
        constraint.accept(token)
    assert constraint.is_done


def test_a_model_that_wants_to_say_something_else() -> None:
    model = MockModel(says("Sure! Here it is", after=2))
    engine = mock_engine(model)
    constraint = engine.grammar_compiler.constraint(Grammar.json_schema({"enum": ["north", "south"]}))
    generation = engine.submit([1, 2], SamplingParams(temperature=0), constraint=constraint)
    assert list(generation)[-1].id == ord('"')
    assert generation.text in ('"north"', '"south"')
    assert generation.finish_reason == "stop"
    assert model.n_tokens < 2 + len(generation.ids), "what is forced is computed in one step"


def test_a_chat_answers_in_its_grammar() -> None:
    engine = mock_engine(MockModel(), TurnTemplate())
    chat = engine.chat(params=SamplingParams(seed=1))
    chat.grammar = Grammar.regex("[a-f]{3}[0-9]{2}")
    assert [len(piece.text) for piece in chat.send("One")]
    text = chat.messages[-1]["content"]
    assert len(text) == 5
    assert text[:3].isalpha()
    assert text[3:].isdigit()
    chat.grammar = Grammar.regex("(")
    with pytest.raises(UsageError):
        chat.send("Two")
    assert len(chat.messages) == 2, "as if nothing had been said"
