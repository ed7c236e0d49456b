"""From the parameters of llama-server's requests to those of the sampler."""

import math
from collections.abc import Sequence
from typing import Any

from llmrun.cli.server.llama_request import CompletionBody
from llmrun.cli.server.no_op import NO_OPS, refuse_unsupported
from llmrun.quant_formats.errors import UsageError
from llmrun.runner.grammar import Grammar
from llmrun.runner.sampler import SamplingParams
from llmrun.runner.tokenizer import Tokenizer

NO_OP_VALUES: NO_OPS = {
    "n_cmpl": (1,),
    "n": (1,),
    "min_keep": (0, 1),
    "typical_p": (1.0,),
    "top_n_sigma": (-1.0, 0.0),
    "dynatemp_range": (0.0,),
    "xtc_probability": (0.0,),
    "dry_multiplier": (0.0,),
    "mirostat": (0,),
    "post_sampling_probs": (False,),
    "return_progress": (False,),
    "sse_ping_interval": (-1,),
    "grammar_lazy": (False,),
    "grammar_triggers": ([],),
    "preserved_tokens": ([],),
    "lora": ([],),
}
"""Parameters that are refused unless they are off; what belongs to one that is off means nothing."""

ORDER = ("penalties", "top_k", "top_p", "min_p", "temperature")
"""The samplers there are, in the order in which they are applied."""

_OFF: dict[str, dict[str, Any]] = {
    "penalties": {"repeat_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0},
    "top_k": {"top_k": 0},
    "top_p": {"top_p": 1.0},
    "min_p": {"min_p": 0.0},
    "temperature": {"temperature": 1.0},
}
_ALWAYS_OFF = ("dry", "typ_p", "xtc", "top_n_sigma", "adaptive_p")
_ALIASES = {"typical_p": "typ_p", "typical": "typ_p", "temp": "temperature", "top-k": "top_k", "top-p": "top_p"}
_ALIASES |= {"min-p": "min_p", "nucleus": "top_p", "top-n-sigma": "top_n_sigma"}
_LETTERS = {"d": "dry", "k": "top_k", "y": "typ_p", "p": "top_p", "s": "top_n_sigma", "m": "min_p"}
_LETTERS |= {"t": "temperature", "x": "xtc", "i": "infill", "e": "penalties", "a": "adaptive_p"}

_RANDOM_SEEDS = (-1, 0xFFFFFFFF)
_SAME_NAME = ("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty")


def sampling(body: CompletionBody, tokenizer: Tokenizer) -> SamplingParams:
    """Translate; what is left out has llmrun's own default.

    Without tokens to predict the parameters ask for one, which the caller drops. Raises UsageError, naming the
    parameter, for a value that makes no sense or is not supported.
    """
    refuse_unsupported(body.model_dump(include=set(NO_OP_VALUES)), NO_OP_VALUES)
    values: dict[str, Any] = {name: getattr(body, name) for name in _SAME_NAME if getattr(body, name) is not None}
    if "temperature" in values:
        values["temperature"] = max(0.0, values["temperature"])
    if "top_k" in values:
        values["top_k"] = max(0, values["top_k"])
    if body.samplers is not None:
        values |= _without_absent(body.samplers)
    if body.repeat_last_n is not None:
        values["penalty_last_n"] = body.repeat_last_n
    if body.seed is not None and body.seed not in _RANDOM_SEEDS:
        values["seed"] = body.seed
    return SamplingParams(
        **values,
        logit_bias=_biases(body, tokenizer),
        max_tokens=_max_tokens(body),
        stop=[word for word in body.stop or () if word],
        logprobs=body.n_probs or None,
    )


def n_predict(body: CompletionBody) -> int:
    """Most tokens of the answer, -1 for no limit, 0 for the prompt alone."""
    given = body.n_predict if body.n_predict is not None else body.max_tokens
    return -1 if given is None or given < 0 else given


def grammar(body: CompletionBody) -> Grammar | None:
    """The constraint that is asked for; raises UsageError for two of them."""
    if body.grammar and body.json_schema is not None:
        raise UsageError("grammar and json_schema cannot be combined; leave one of them out")
    if body.json_schema is not None:
        return Grammar.json_schema(body.json_schema)
    return Grammar.gbnf(body.grammar) if body.grammar else None


def samplers_of(params: SamplingParams) -> list[str]:
    """The samplers that are applied, for the reply."""
    return [name for name in ORDER if any(getattr(params, key) != off for key, off in _OFF[name].items())]


def _max_tokens(body: CompletionBody) -> int | None:
    limit = n_predict(body)
    return None if limit < 0 else max(1, limit)


def _without_absent(samplers: Sequence[str] | str) -> dict[str, Any]:
    """The parameters of the samplers that a list leaves out, so that they do nothing.

    `infill` keeps what is likely after code; here it takes the likeliest, which is its purpose.
    """
    names = [_sampler_named(name) for name in samplers]
    known = [name for name in names if name in ORDER]
    if known != [name for name in ORDER if name in known]:
        raise UsageError(f"samplers are applied in one order here: {', '.join(ORDER)}; list them so, each once")
    values: dict[str, Any] = {}
    for name in ORDER:
        if name not in known:
            values |= _OFF[name]
    return values | ({"temperature": 0.0} if "infill" in names else {})


def _sampler_named(name: str) -> str:
    full = _LETTERS.get(name, _ALIASES.get(name, name))
    if full not in (*ORDER, *_ALWAYS_OFF, "infill"):
        raise UsageError(f"samplers has {name[:40]!r}; there are {', '.join(ORDER)}")
    return full


def _biases(body: CompletionBody, tokenizer: Tokenizer) -> dict[int, float]:
    """Biases by id; false bans an id, and a text stands for each of its ids."""
    biases: dict[int, float] = {}
    for key, value in _pairs(body):
        if value is True or isinstance(value, str) or isinstance(key, bool | float):
            raise UsageError("logit_bias takes pairs of an id or a text and a number, or false to ban a token")
        bias = -math.inf if value is False else float(value)
        for token in _ids_of(key, isinstance(body.logit_bias, dict), tokenizer):
            biases[token] = biases.get(token, 0.0) + bias
    if body.ignore_eos:
        biases |= dict.fromkeys(tokenizer.stop_ids, -math.inf)
    return biases


def _pairs(body: CompletionBody) -> list[Any]:
    given = body.logit_bias or []
    if isinstance(given, dict):
        return list(given.items())
    if any(len(pair) != 2 for pair in given):
        raise UsageError("logit_bias takes pairs of an id or a text and a number, or false to ban a token")
    return given


def _ids_of(key: int | str, is_name: bool, tokenizer: Tokenizer) -> list[int]:
    if isinstance(key, int):
        return [key]
    if is_name and key.isascii() and key.isdigit():
        return [int(key)]
    return tokenizer.encode(key, add_special=False, parse_special=True)
