"""The bodies of Ollama's requests, field by field; a field that is not here is refused.

A field that is null counts as left out, because some clients write all of them.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from llmrun.cli.server.ollama_options import OllamaOptions
from llmrun.quant_formats.errors import UsageError
from llmrun.runner.grammar import Grammar

Role = Literal["system", "user", "assistant", "tool"]
Think = bool | Literal["low", "medium", "high", "max"]


class OllamaBody(BaseModel):
    """What all bodies have in common."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class NamedBody(OllamaBody):
    """A body that names a model: `model`, or `name` as older clients write."""

    model: str | None = None
    name: str | None = None

    @property
    def model_name(self) -> str:
        """The name that was given; raises UsageError if there is none."""
        name = self.model or self.name
        if not name:
            raise UsageError("model is missing; name one of those that /api/tags lists")
        return name


class FunctionCall(OllamaBody):
    """A call that an assistant made, in a message of the conversation."""

    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    index: int | None = None
    description: str | None = None


class ToolCallBody(OllamaBody):
    """A call and its id, if the client keeps one."""

    function: FunctionCall
    id: str | None = None
    type: Literal["function"] | None = None
    index: int | None = None


class MessageBody(OllamaBody):
    """One message of a conversation."""

    role: Role
    content: str | None = None
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[ToolCallBody] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class FunctionBody(OllamaBody):
    """What a tool is called and takes."""

    name: str = Field(min_length=1)
    description: str | None = None
    parameters: dict[str, Any] | None = None


class ToolBody(OllamaBody):
    """A tool that the model may call."""

    type: Literal["function"] = "function"
    function: FunctionBody


class AnswerBody(OllamaBody):
    """What /api/generate and /api/chat have in common."""

    model: str = Field(min_length=1)
    stream: bool | None = None
    format: str | dict[str, Any] | None = None
    think: Think | None = None
    options: OllamaOptions | None = None
    keep_alive: float | str | None = None
    truncate: bool | None = None
    shift: bool | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)

    @property
    def streams(self) -> bool:
        """Whether the answer is to come line by line, which is the default."""
        return self.stream is not False

    @property
    def n_logprobs(self) -> int | None:
        """Likeliest tokens to report at each position; None for no log probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def grammar(self) -> Grammar | None:
        """The constraint that `format` asks for; raises UsageError for a format that does not exist."""
        if self.format is None or self.format == "":
            return None
        if isinstance(self.format, dict):
            return Grammar.json_schema(self.format)
        if self.format == "json":
            return Grammar.json_object()
        raise UsageError(f'format must be "json" or a JSON schema, not {self.format[:40]!r}')


class GenerateBody(AnswerBody):
    """POST /api/generate."""

    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    context: list[int] | None = None
    raw: bool | None = None
    images: list[str] | None = None
    width: int | None = None
    height: int | None = None
    steps: int | None = None


class ChatBody(AnswerBody):
    """POST /api/chat."""

    messages: list[MessageBody] | None = None
    tools: list[ToolBody] | None = None
    template: str | None = None


class EmbedBody(OllamaBody):
    """POST /api/embed."""

    model: str = Field(min_length=1)
    input: str | list[str]
    truncate: bool | None = None
    options: OllamaOptions | None = None
    keep_alive: float | str | None = None
    dimensions: int | None = Field(None, ge=1)


class EmbeddingsBody(OllamaBody):
    """POST /api/embeddings, which /api/embed replaced."""

    model: str = Field(min_length=1)
    prompt: str | None = None
    options: OllamaOptions | None = None
    keep_alive: float | str | None = None


class ShowBody(NamedBody):
    """POST /api/show."""

    verbose: bool | None = None
    system: str | None = None
    template: str | None = None
    options: OllamaOptions | None = None


class PullBody(NamedBody):
    """POST /api/pull."""

    stream: bool | None = None
    insecure: bool | None = None
    username: str | None = None
    password: str | None = None


class DeleteBody(NamedBody):
    """DELETE /api/delete."""
