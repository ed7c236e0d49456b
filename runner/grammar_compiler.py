"""Makes constraints of grammars, for one tokenizer."""

import functools
import json
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

from llmrun.quant_formats.errors import UsageError
from llmrun.runner.constraint import Constraint
from llmrun.runner.grammar import Grammar
from llmrun.runner.json_schema import prepare_schema

if TYPE_CHECKING:
    from llguidance import LLMatcher

_N_KEPT = 64  # compiled grammars
_LONGEST = 4 << 20  # characters of a grammar
_SHOWN = 300  # characters of what llguidance says about it
_ANY_OBJECT = {
    "$ref": "#/$defs/object",
    "$defs": {
        "object": {"type": "object", "additionalProperties": {"$ref": "#/$defs/any"}},
        "any": {
            "anyOf": [
                {"type": ["string", "number", "boolean", "null"]},
                {"type": "array", "items": {"$ref": "#/$defs/any"}},
                {"$ref": "#/$defs/object"},
            ]
        },
    },
}


class _Tokenizer(Protocol):
    @property
    def n_vocab(self) -> int: ...
    @property
    def stop_ids(self) -> frozenset[int]: ...
    @property
    def special_ids(self) -> frozenset[int]: ...
    @property
    def vocabulary_bytes(self) -> list[bytes]: ...
    def encode(self, text: str, add_special: bool, parse_special: bool, continues: bool) -> list[int]: ...


class GrammarCompiler:
    """Knows the vocabulary; what it has compiled before is at hand.

    Making one takes 0.2 s for 49,152 tokens and 1 s for 262,144. `constraint` may be called on any thread.
    """

    def __init__(self, tokenizer: _Tokenizer, n_vocab: int) -> None:
        """n_vocab: logits of the model, at least as many as the tokenizer has ids."""
        from llguidance import LLTokenizer

        assert n_vocab >= tokenizer.n_vocab
        self._tokenizer = tokenizer
        self._n_vocab = n_vocab
        self._n_tokens = tokenizer.n_vocab
        self._stop_ids = tokenizer.stop_ids
        self._ll_tokenizer = LLTokenizer(_Wrapper(tokenizer), eos_token=sorted(self._stop_ids))  # type: ignore[arg-type]
        self._matcher = functools.lru_cache(maxsize=_N_KEPT)(self._compile)

    def constraint(self, grammar: Grammar) -> Constraint:
        """The constraint of a new answer; raises UsageError that says what in the grammar is wrong or not supported."""
        return Constraint(self._matcher(grammar).deep_copy(), self._n_tokens, self._n_vocab, self._stop_ids)

    def _compile(self, grammar: Grammar) -> "LLMatcher":
        if len(grammar.source) > _LONGEST:
            raise UsageError(f"the grammar has {len(grammar.source)} characters; {_LONGEST} are the most")
        matcher = self._matcher_of(grammar, bounded=False)
        if grammar.kind != "json_schema":
            return matcher
        try:
            return self._matcher_of(grammar, bounded=True)
        except UsageError:  # it needs longer numbers
            return matcher

    def _matcher_of(self, grammar: Grammar, bounded: bool) -> "LLMatcher":
        from llguidance import LLMatcher, LLParserLimits

        try:
            text = json.dumps({"grammars": self._grammars(grammar, bounded)}, ensure_ascii=False)
            # without verbose_errors, what goes wrong is said without the text around it
            limits = LLParserLimits(verbose_errors=False)
            matcher = LLMatcher(self._ll_tokenizer, text, log_level=0, limits=limits)
        except ValueError as error:
            raise UsageError(_said(grammar, str(error))) from error
        if matcher.is_error():
            raise UsageError(_said(grammar, matcher.get_error()))
        for warning in matcher.get_grammar_warnings():  # what it would ignore
            raise UsageError(_said(grammar, warning))
        probe = matcher.deep_copy()
        if not probe.is_stopped():
            probe.compute_bitmask()
        if probe.is_error():
            raise UsageError(_said(grammar, "no text meets it, or it is too complex"))
        return matcher

    def _grammars(self, grammar: Grammar, bounded: bool) -> list[dict[str, object]]:
        """The grammar, and before it the one that leads to it."""
        from llmrun.runner.gbnf import escape_regex

        body = {"name": "body"} | _body(grammar, bounded)
        if not grammar.after:
            return [body]
        token = self._special_tokens.get(grammar.after.encode())
        if token is None:
            lead = f"start: lead GAP @body\nlead[lazy]: /(?s:.*){escape_regex(grammar.after)}/"
        else:
            lead = f"start: /(?s:.*)/ <[{token}]> GAP @body"
        return [{"name": "lead", "lark_grammar": lead + "\nGAP: /[ \\n]{0,3}/\n"}, body]

    @functools.cached_property
    def _special_tokens(self) -> dict[bytes, int]:
        return {self._tokenizer.vocabulary_bytes[token]: token for token in self._tokenizer.special_ids}


class _Wrapper:
    """What llguidance asks of a tokenizer."""

    is_tokenizer_wrapper = True

    def __init__(self, tokenizer: _Tokenizer) -> None:
        self.tokens = tokenizer.vocabulary_bytes
        # an id that ends the answer is no text, even where the vocabulary says otherwise
        self.special_token_ids = sorted(tokenizer.special_ids | tokenizer.stop_ids)
        self.eos_token_id = min(tokenizer.stop_ids)
        self.bos_token_id = None
        self._tokenizer = tokenizer

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special=False, parse_special=False, continues=True)


def _body(grammar: Grammar, bounded: bool) -> dict[str, object]:
    match grammar.kind:
        case "json_schema":
            return {"json_schema": prepare_schema(json.loads(grammar.source), bounded)}
        case "json_object":
            return {"json_schema": prepare_schema(_ANY_OBJECT, bounded=True)}
        case "regex":
            from llguidance import regex_to_lark

            return {"lark_grammar": f"start: /{regex_to_lark(grammar.source, '')}/"}
        case "lark":
            return {"lark_grammar": grammar.source}
        case "gbnf":
            from llmrun.runner.gbnf import gbnf_to_lark

            return {"lark_grammar": gbnf_to_lark(grammar.source)}


def _said(grammar: Grammar, message: str) -> str:
    """One line about what is wrong with a grammar."""
    name = {"json_schema": "JSON schema", "json_object": "JSON object", "regex": "regular expression"}
    if "oneOf constraints are not supported" in message:
        message = "oneOf is only supported where no two of its choices can hold at once; use anyOf"
    lines = [line.strip() for line in message.splitlines() if line.strip()] or [""]
    reason = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), None)
    if reason is not None and len(lines) > 1:  # a regular expression, its trouble marked in the lines before
        shown = next((after for before, after in pairwise(lines) if before.endswith("regex parse error:")), "")
        lines[0] = f"{reason}: {shown}"
    line = lines[0] if len(lines[0]) <= _SHOWN else lines[0][: _SHOWN - 3] + "..."
    return f"the {name.get(grammar.kind, 'grammar')} cannot be used: {line}"
