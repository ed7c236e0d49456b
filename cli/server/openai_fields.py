"""What the requests of the OpenAI API have in common: strict types, sampling, output formats, and extensions."""

import json
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import PydanticCustomError, core_schema

from llmrun.cli.server.errors import BadRequest
from llmrun.quant_formats.errors import UsageError
from llmrun.runner.sampler import SamplingParams

MAX_CHOICES = 128  # answers of one request
MAX_TOP_LOGPROBS = 20
SEEDS = 1 << 64


@dataclass(frozen=True)
class Only:
    """The validator of a parameter that has no effect here: its neutral values pass, all others are refused."""

    accepted: tuple[Any, ...]

    def __get_pydantic_core_schema__(self, kind: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Check what the type lets pass."""
        return core_schema.no_info_after_validator_function(self._check, handler(kind))

    def __get_pydantic_json_schema__(
        self, _schema: core_schema.CoreSchema, _handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """What may be sent, for the page that describes the routes."""
        return {"enum": [*self.accepted, None]}

    def _check(self, value: Any) -> Any:
        if value is None or any(value == neutral and type(value) is type(neutral) for neutral in self.accepted):
            return value
        choices = "".join(f" or {json.dumps(neutral)}" for neutral in self.accepted)
        raise PydanticCustomError("not_supported", f"llmrun does not support this value; leave it out{choices}")


def only(*accepted: Any) -> Only:
    """Mark a parameter that may be left out, null, or one of these."""
    return Only(accepted)


JsonObject = dict[str, Any]
Unsupported = Annotated[Any, only()]
"""A parameter of the API that llmrun does not have."""
KeepAlive = Annotated[
    float | str | None,
    Field(description="how long the model stays loaded: seconds or a duration such as 5m; negative is for ever"),
]
Label = Any
"""A parameter that only marks a request for its sender and never changes an answer; accepted and not kept."""


class Fields(BaseModel):
    """A JSON object of a request: unknown fields and values of other types are refused, never converted."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


class StreamOptions(Fields):
    """`stream_options`."""

    include_usage: bool | None = None
    include_obfuscation: Annotated[bool | None, only(False)] = None


class SamplingFields(Fields):
    """How tokens are chosen and when an answer ends; what is left out has the default of `SamplingParams`."""

    frequency_penalty: float | None = None
    ignore_eos: bool | None = Field(None, description="llmrun: go on to max_tokens whatever the model says")
    logit_bias: dict[str, float] | None = None
    max_tokens: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    repeat_last_n: int | None = Field(None, description="how many ids the penalties look at; -1 is all")
    repeat_penalty: float | None = None
    repetition_penalty: float | None = Field(None, description="another name of repeat_penalty")
    seed: int | None = None
    stop: str | list[str] | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None

    def sampling(self, max_tokens: int | None, logprobs: int | None, stop_ids: frozenset[int]) -> SamplingParams:
        """Return the parameters of the engine; raises BadRequest that names the parameter for a value out of range.

        stop_ids are those of the model, which `ignore_eos` bans.
        """
        given: dict[str, Any] = {
            "frequency_penalty": self.frequency_penalty,
            "logit_bias": self._bias(stop_ids),
            "logprobs": logprobs,
            "max_tokens": max_tokens,
            "min_p": self.min_p,
            "penalty_last_n": self.repeat_last_n,
            "presence_penalty": self.presence_penalty,
            "repeat_penalty": one_of(repeat_penalty=self.repeat_penalty, repetition_penalty=self.repetition_penalty),
            "seed": self.seed,
            "stop": self._stop(),
            "temperature": self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
        }
        try:
            return SamplingParams(**{name: value for name, value in given.items() if value is not None})
        except UsageError as error:  # its message begins with the name
            raise BadRequest(str(error), str(error).split()[0]) from error

    def _stop(self) -> list[str]:
        if self.stop is None:
            return []
        return [self.stop] if isinstance(self.stop, str) else self.stop

    def _bias(self, stop_ids: frozenset[int]) -> dict[int, float]:
        bias: dict[int, float] = {}
        for token, value in (self.logit_bias or {}).items():
            if not (token.isascii() and token.isdigit() and len(token) < 10):
                raise BadRequest(f"logit_bias maps token ids to numbers; {token[:20]!r} is no id", "logit_bias")
            if abs(value) > 100:
                raise BadRequest(f"logit_bias must be between -100 and 100, not {value}", "logit_bias")
            bias[int(token)] = value
        if self.ignore_eos:
            bias |= dict.fromkeys(stop_ids, float("-inf"))
        return bias


class RequestFields(SamplingFields):
    """What chat completions and completions share."""

    cache_prompt: Annotated[bool | None, only(True)] = Field(None, description="known prefixes are always reused")
    grammar: str | None = Field(None, description="a GBNF grammar that the answer follows, as in llama-server")
    guided_choice: list[str] | None = Field(None, description="the answer is one of these, as in vLLM")
    guided_grammar: str | None = Field(None, description="a GBNF or Lark grammar, as in vLLM")
    guided_json: JsonObject | str | None = Field(None, description="a JSON schema, as in vLLM")
    guided_regex: str | None = Field(None, description="a regular expression for the whole answer, as in vLLM")
    json_schema: JsonObject | None = Field(None, description="a JSON schema, as in llama-server")
    keep_alive: KeepAlive = None
    model: str
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    num_ctx: int | None = Field(None, ge=1, description="most tokens of the prompt with its answer")
    priority: int | None = Field(None, ge=-100, le=100, description="higher goes first")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Label = None

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with a chunk of usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def check_stream_options(self) -> None:
        """Refuse options of a stream where there is none."""
        if self.stream_options is not None and not self.stream:
            raise BadRequest("stream_options is for streams; set stream to true or leave it out", "stream_options")


def one_of(**named: Any) -> Any:
    """Return the value that is given under any of the names, or None; two that differ are a BadRequest."""
    given = {name: value for name, value in named.items() if value is not None}
    values = list(given.values())
    if any(value != values[0] for value in values):
        raise BadRequest(f"{' and '.join(given)} say different things; give only one of them", next(iter(given)))
    return values[0] if values else None


def token_limit(**named: int | None) -> int | None:
    """Return the most tokens of an answer; -1 is no limit, as other local servers have it."""
    limit: int | None = one_of(**named)
    return None if limit == -1 else limit


def seeds(params: SamplingParams, n: int) -> list[int | None]:
    """Seeds of n answers to one prompt: the first has the request's own, the others count on."""
    return [None if params.seed is None else (params.seed + i) % SEEDS for i in range(n)]
