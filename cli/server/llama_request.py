"""The bodies of llama-server's requests, field by field; a field that is not here is refused.

A field that is null counts as left out, as in llama-server.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from llmrun.cli.server.openai_fields import JsonObject
from llmrun.cli.server.openai_messages import Message
from llmrun.cli.server.openai_tools import FunctionTool

Prompt = str | list[Any] | dict[str, Any]
LogitBias = list[list[int | str | float | bool]] | dict[str, int | float | bool]


class LlamaBody(BaseModel):
    """What all bodies have in common: `model` may name one of several."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    model: str | None = None


class CompletionBody(LlamaBody):
    """POST /completion; what the fields mean is in docs/serving-llama-server.md."""

    prompt: Prompt | None = None
    stream: bool | None = None
    n_predict: int | None = Field(None, ge=-2)
    max_tokens: int | None = Field(None, ge=-2)
    stop: list[str] | None = None
    seed: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: LogitBias | None = None
    ignore_eos: bool | None = None
    samplers: list[str] | str | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | None = None
    n_probs: int | None = Field(None, ge=0, le=100)
    return_tokens: bool | None = None
    timings_per_token: bool | None = None
    response_fields: list[str] | None = None
    t_max_predict_ms: float | None = None
    n_indent: int | None = Field(None, ge=0)

    # none of these changes an answer here: no prompt is cut, known ones are always reused, and there are no slots
    cache_prompt: bool | None = None
    n_cache_reuse: int | None = None
    id_slot: int | None = None
    n_keep: int | None = None
    n_discard: int | None = None
    t_max_prompt_ms: float | None = None

    # known, and refused unless they are off
    n_cmpl: int | None = None
    n: int | None = None
    min_keep: int | None = None
    typical_p: float | None = None
    top_n_sigma: float | None = None
    dynatemp_range: float | None = None
    dynatemp_exponent: float | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_penalty_last_n: int | None = None
    dry_sequence_breakers: list[str] | None = None
    mirostat: int | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    post_sampling_probs: bool | None = None
    return_progress: bool | None = None
    sse_ping_interval: int | None = None
    grammar_lazy: bool | None = None
    grammar_triggers: list[Any] | None = None
    preserved_tokens: list[Any] | None = None
    lora: list[Any] | None = None


class ExtraText(BaseModel):
    """A piece of another file that an editor sends along."""

    model_config = ConfigDict(extra="forbid", strict=True)

    text: str
    filename: str | None = None
    time: float | None = None  # llama.vim says when it was taken


class InfillBody(CompletionBody):
    """POST /infill: the text around the cursor, besides all that /completion takes."""

    input_prefix: str | None = None
    input_suffix: str | None = None
    input_extra: list[ExtraText] | None = None


class TokenizeBody(LlamaBody):
    """POST /tokenize."""

    content: str
    add_special: bool | None = None
    parse_special: bool | None = None
    with_pieces: bool | None = None


class DetokenizeBody(LlamaBody):
    """POST /detokenize."""

    tokens: list[int]


class ApplyTemplateBody(LlamaBody):
    """POST /apply-template: messages and tools as /v1/chat/completions takes them."""

    messages: list[Message] = Field(min_length=1)
    tools: list[FunctionTool] | None = None
    chat_template_kwargs: JsonObject | None = None
    add_generation_prompt: bool | None = None


class EmbeddingBody(LlamaBody):
    """POST /embedding and /embeddings: `content` or `input`."""

    content: Prompt | None = None
    input: Prompt | None = None
    embd_normalize: int | None = None
    encoding_format: str | None = None
