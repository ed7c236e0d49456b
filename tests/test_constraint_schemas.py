"""Two hundred schemas: whatever comes out validates."""

import json
from decimal import Decimal, DecimalException
from pathlib import Path
from typing import Any

import pytest
from json_schemas import SCHEMAS, Schema
from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.validators import validator_for
from mock_model import ByteTokenizer
from wild_sampler import WildSampler

from llmrun.quant_formats.gguf_file import GGUFFile
from llmrun.runner.engine import Engine
from llmrun.runner.grammar import Grammar
from llmrun.runner.grammar_compiler import GrammarCompiler
from llmrun.runner.sampler import SamplingParams
from llmrun.runner.tokenizer import Tokenizer

FORMATS = FormatChecker(["email", "ipv4", "ipv6", "uuid"])


def exact(text: str) -> Decimal | float:
    """A number as it is written, so that 0.07 is a multiple of 0.01."""
    try:
        return Decimal(text)
    except DecimalException:  # an exponent beyond all measure
        return float(text)


def validate(text: str | bytes, schema: Schema) -> None:
    schema = json.loads(json.dumps(schema), parse_float=exact)
    kind: Any = validator_for(schema, default=Draft202012Validator)
    kind(schema, format_checker=FORMATS).validate(json.loads(text, parse_float=exact))


def check_all(tokenizer: Any, seeds: range) -> None:
    compiler, sampler = GrammarCompiler(tokenizer, tokenizer.n_vocab), WildSampler(tokenizer)
    for name, schema in SCHEMAS:
        for seed in seeds:
            text, has_ended = sampler.text(compiler.constraint(Grammar.json_schema(schema)), seed)
            assert has_ended, f"{name}: {text[:100]!r}"
            validate(text, schema)


def test_there_are_two_hundred() -> None:
    assert len({name for name, _ in SCHEMAS}) == len({json.dumps(schema) for _, schema in SCHEMAS}) == 200
    for _, schema in SCHEMAS:
        validator_for(schema, default=Draft202012Validator).check_schema(schema)


def test_bytes_drawn_at_random_validate() -> None:
    check_all(ByteTokenizer(), range(8))


def test_tokens_drawn_at_random_validate(smollm2_path: Path) -> None:
    with GGUFFile.open(smollm2_path) as gguf:
        check_all(Tokenizer.from_gguf(gguf.metadata), range(2))


def test_tokens_of_sentencepiece_drawn_at_random_validate(gemma3_path: Path) -> None:
    with GGUFFile.open(gemma3_path) as gguf:
        check_all(Tokenizer.from_gguf(gguf.metadata), range(1))


@pytest.mark.parametrize("start", range(4))
def test_answers_of_a_model_validate(smollm2_path: Path, start: int) -> None:
    n_ended = 0
    chosen = SCHEMAS[start * 7 :: 28]
    with Engine.load(smollm2_path, n_ctx=1024) as engine:
        for name, schema in chosen:
            constraint = engine.grammar_compiler.constraint(Grammar.json_schema(schema))
            params = SamplingParams(seed=1, max_tokens=120)
            prompt = f"An example of {name} as JSON:\n"
            generation = engine.submit(engine.tokenize(prompt), params, constraint=constraint)
            list(generation)
            if generation.finish_reason == "stop":
                n_ended += 1
                validate(generation.text, schema)
    assert n_ended > len(chosen) // 2


def test_the_vocabulary_at_once_is_that_of_one_by_one(smollm2_path: Path, gemma3_path: Path) -> None:
    for path in (smollm2_path, gemma3_path):
        with GGUFFile.open(path) as gguf:
            tokenizer = Tokenizer.from_gguf(gguf.metadata)
            assert tokenizer.vocabulary_bytes == [tokenizer.token_bytes(token) for token in range(tokenizer.n_vocab)]
            assert tokenizer.special_ids == {t for t in range(tokenizer.n_vocab) if tokenizer.is_special(t)}


def test_forced_ids_are_those_of_the_tokenizer(smollm2_path: Path) -> None:
    names = ("name_of_the_person", "order", "orderId", "Straße", "x" * 40)
    with GGUFFile.open(smollm2_path) as gguf:
        tokenizer = Tokenizer.from_gguf(gguf.metadata)
    compiler = GrammarCompiler(tokenizer, tokenizer.n_vocab)
    n_forced = 0
    schema = {
        "type": "object",
        "properties": {n: {"type": "integer"} for n in names},
        "required": list(names),
        "additionalProperties": False,
    }
    constraint = compiler.constraint(Grammar.json_schema(schema))
    text = json.dumps(dict.fromkeys(names, 7), ensure_ascii=False)
    for token in tokenizer.encode(text, add_special=False, continues=True):
        forced = constraint.forced()
        if forced:
            assert forced[0] == token
            n_forced += 1
        assert constraint.mask()[token]
        constraint.accept(token)
    assert constraint.is_done
    assert n_forced > 10
