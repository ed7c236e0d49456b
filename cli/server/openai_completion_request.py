"""The request of a completion, and what the runner makes of it."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from llmrun.cli.server.errors import BadRequest
from llmrun.cli.server.openai_fields import MAX_CHOICES, MAX_TOP_LOGPROBS, RequestFields, token_limit
from llmrun.runner.sampler import SamplingParams

DEFAULT_MAX_TOKENS = 16  # of the API; a model that only completes may never end by itself

TokenIds = Annotated[list[int], Field(min_length=1)]


class CompletionRequest(RequestFields):
    """All parameters of `POST /v1/completions`."""

    prompt: str | list[str] | TokenIds | list[TokenIds]
    best_of: int | None = Field(None, ge=1, le=MAX_CHOICES)
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    suffix: str | None = None

    @property
    def prompts(self) -> Sequence[str | list[int]]:
        """The prompts, each a text or ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [self.prompt]
        return self.prompt  # type: ignore[return-value]

    @property
    def n_choices(self) -> int:
        """Answers to each prompt."""
        return self.n or 1

    @property
    def n_candidates(self) -> int:
        """Answers to each prompt of which the best are returned."""
        return self.best_of or self.n_choices

    def check(self) -> None:
        """Raise BadRequest for parameters that do not go together."""
        self.check_stream_options()
        if not self.prompts:
            raise BadRequest("prompt is an empty list; give at least one", "prompt")
        if self.n_candidates < self.n_choices:
            raise BadRequest(f"best_of must be n ({self.n_choices}) or more, not {self.best_of}", "best_of")
        if self.stream and self.n_candidates > self.n_choices:
            raise BadRequest("best_of cannot be streamed, as the best is known at the end; leave one out", "best_of")
        if len(self.prompts) * self.n_candidates > MAX_CHOICES:
            raise BadRequest(f"more than {MAX_CHOICES} answers in one request; send fewer prompts at a time", "prompt")
        if self.suffix is not None and self.echo:
            raise BadRequest("echo and suffix cannot be combined; leave one of them out", "echo")
        if self.suffix is not None and not all(isinstance(prompt, str) for prompt in self.prompts):
            raise BadRequest("suffix needs a prompt that is text, not ids", "suffix")
        if self.max_tokens == 0 and not self.echo:
            raise BadRequest("max_tokens must be 1 or more, unless echo asks for the prompt", "max_tokens")

    def params(self, stop_ids: frozenset[int]) -> SamplingParams | None:
        """How to answer, None for no answer at all, which leaves the prompt (`echo` with a `max_tokens` of 0)."""
        limit = token_limit(max_tokens=DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens)
        logprobs = self.logprobs
        if self.n_candidates > self.n_choices and logprobs is None:
            logprobs = 0  # which are the best depends on them
        params = self.sampling(limit or None, logprobs, stop_ids)
        return None if limit == 0 else params
