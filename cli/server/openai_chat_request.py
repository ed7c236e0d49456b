"""The request of a chat completion, and what the runner makes of it."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from llmrun.cli.server.errors import BadRequest
from llmrun.cli.server.openai_fields import (
    MAX_TOP_LOGPROBS,
    Fields,
    JsonObject,
    Label,
    RequestFields,
    Unsupported,
    only,
    token_limit,
)
from llmrun.cli.server.openai_grammar import ResponseFormat, grammar_of
from llmrun.cli.server.openai_messages import Message, template_messages
from llmrun.cli.server.openai_tools import FunctionTool, ToolChoice, chosen_tools
from llmrun.runner.chat_request import ChatRequest
from llmrun.runner.engine import Engine
from llmrun.runner.tool import Tool

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
# what a template is given by others, and must not be given twice
_TAKEN_VARIABLES = {"self", "messages", "tools", "add_generation_prompt", "bos_token", "eos_token", "documents"}


class PromptCacheOptions(Fields):
    """`prompt_cache_options`."""

    mode: Literal["implicit"]


class ChatCompletionRequest(RequestFields):
    """All parameters of `POST /v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1)
    chat_template_kwargs: JsonObject | None = Field(None, description="llmrun: variables for the chat template")
    logprobs: bool | None = None
    max_completion_tokens: int | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Effort | None = None
    response_format: ResponseFormat | None = None
    tool_choice: ToolChoice | None = None
    tools: list[FunctionTool] | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)

    metadata: Label = None
    prompt_cache_key: Label = None
    safety_identifier: Label = None

    modalities: Annotated[list[str] | None, only(["text"])] = None
    prompt_cache_options: PromptCacheOptions | None = None
    prompt_cache_retention: Annotated[str | None, only("in_memory")] = None
    service_tier: Annotated[str | None, only("auto", "default")] = None
    store: Annotated[bool | None, only(False)] = None
    verbosity: Annotated[str | None, only("medium")] = None

    audio: Unsupported = None
    function_call: Unsupported = None
    functions: Unsupported = None
    moderation: Unsupported = None
    prediction: Unsupported = None
    web_search_options: Unsupported = None

    def chat_request(self, engine: Engine, client: str) -> ChatRequest:
        """Translate; raises BadRequest that names the parameter that makes no sense."""
        self.check_stream_options()
        if self.top_logprobs is not None and not self.logprobs:
            raise BadRequest("top_logprobs needs logprobs; set that to true or leave both out", "top_logprobs")
        limit = token_limit(max_completion_tokens=self.max_completion_tokens, max_tokens=self.max_tokens)
        logprobs = (self.top_logprobs or 0) if self.logprobs else None
        functions, choice = chosen_tools(self.tools or [], self.tool_choice)
        think, variables = self._thinking(engine)
        return ChatRequest(
            messages=template_messages(self.messages),
            params=self.sampling(limit, logprobs, engine.tokenizer.stop_ids),
            tools=tuple(Tool(one.name, one.description or "", one.parameters or {}) for one in functions),
            tool_choice=choice,
            parallel_tool_calls=self.parallel_tool_calls is not False,
            think=think,
            grammar=grammar_of(self, self.response_format),
            template_variables=variables,
            n_ctx=self.num_ctx,
            client=client,
            priority=self.priority or 0,
        )

    def _thinking(self, engine: Engine) -> tuple[bool | None, Mapping[str, Any]]:
        """Whether to reason, if the request says so, and the variables of the template."""
        variables = self.chat_template_kwargs or {}
        for name in _TAKEN_VARIABLES & variables.keys():
            message = f"chat_template_kwargs cannot set {name}; the request has parameters of its own for it"
            raise BadRequest(message, "chat_template_kwargs")
        effort = self.reasoning_effort
        if effort is None:
            return None, variables
        source = engine.chat_template.source if engine.chat_template else ""
        if "reasoning_effort" in source:
            return effort != "none", {"reasoning_effort": effort, **variables}
        if effort != "none" and "think" not in source:
            message = f"this model does not reason; leave reasoning_effort out, or set it to none, not {effort}"
            raise BadRequest(message, "reasoning_effort")
        return effort != "none", variables
