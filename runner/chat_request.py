"""A request for the next message of a chat, whatever API it came by, and the answer to it."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from llmrun.quant_formats.errors import EngineClosed, UsageError
from llmrun.runner.delta import Delta
from llmrun.runner.piece import Piece
from llmrun.runner.sampler import SamplingParams
from llmrun.runner.stats import Stats
from llmrun.runner.stream import Stream
from llmrun.runner.tool import Tool, ToolCall, ToolCallDelta

if TYPE_CHECKING:
    from llmrun.runner.answer_parser import AnswerParser
    from llmrun.runner.engine import Engine
    from llmrun.runner.engine_thread import EngineThread
    from llmrun.runner.grammar import Grammar

ChatFinishReason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True)
class ChatRequest:
    """What is to be answered, and how.

    messages: as chat templates expect them: {"role": "system" | "user" | "assistant" | "tool", "content": text}, with
    "reasoning_content", "tool_calls" (arguments as objects), "tool_call_id" and "name" where they apply.
    tool_choice: "auto", "none", "required", or "=NAME" for a tool that must be called.
    think: None leaves it to the template. grammar: what the answer has to be. n_ctx: a limit on prompt and answer.
    """

    messages: Sequence[Mapping[str, Any]]
    params: SamplingParams = field(default_factory=SamplingParams)
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"
    parallel_tool_calls: bool = True
    think: bool | None = None
    grammar: "Grammar | None" = None
    template_variables: Mapping[str, Any] = field(default_factory=dict)
    n_ctx: int | None = None
    client: str = ""
    priority: int = 0


@dataclass(frozen=True)
class Usage:
    """Numbers of tokens."""

    n_prompt: int
    n_cached: int  # of the prompt, those that were not computed again
    n_generated: int
    n_reasoning: int  # of those generated


@dataclass(slots=True)
class ChatDelta:
    """What the answer grew by, and the pieces that it is made of."""

    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    pieces: list[Piece] = field(default_factory=list)


class ChatPrompt:
    """A request that has been turned into ids, ready to be answered any number of times."""

    def __init__(self, thread: "EngineThread", request: ChatRequest, text: str, ids: list[int]) -> None:
        self.text = text
        self.ids = ids
        self._thread = thread
        self._request = request
        self._grammar = _grammar_of(thread.engine, request, text)
        if self._grammar is not None:
            thread.engine.grammar_compiler.constraint(self._grammar)  # what is wrong with it is said now

    def answer(self, params: SamplingParams | None = None) -> "ChatStream":
        """Begin an answer, with other parameters than those of the request if they are given.

        Raises PromptTooLong, UsageError, QueueFull or EngineClosed.
        """
        from llmrun.runner.answer_parser import AnswerParser

        request, engine = self._request, self._thread.engine
        constraint = None if self._grammar is None else engine.grammar_compiler.constraint(self._grammar)
        stream = self._thread.submit(
            self.ids, params or request.params, constraint=constraint, n_ctx=request.n_ctx, client=request.client,
            priority=request.priority,
        )  # fmt: skip
        parser = AnswerParser(engine.chat_template, engine.tokenizer, _tools_of(request), self.text)
        return ChatStream(stream, parser)


async def prepare_chat(thread: "EngineThread", request: ChatRequest) -> ChatPrompt:
    """Render and tokenise a request, and compile its grammar, on another thread than the event loop's.

    Raises TemplateError, UsageError, or PromptTooLong: nothing is ever left out of a prompt.
    """

    def prepare() -> ChatPrompt:
        prompt = ChatPrompt(thread, request, *prompt_of(thread.engine, request))
        thread.engine.check_request(prompt.ids, request.params, request.n_ctx)
        return prompt

    return await asyncio.to_thread(prepare)


async def answer_chat(thread: "EngineThread", request: ChatRequest) -> "ChatStream":
    """Begin the answer to a request; raises what `prepare_chat` and `ChatPrompt.answer` raise."""
    return (await prepare_chat(thread, request)).answer()


def prompt_of(engine: "Engine", request: ChatRequest) -> tuple[str, list[int]]:
    """Text and ids of the prompt of a request. Raises TemplateError, or UsageError for a model without a template."""
    from llmrun.runner.tool_dialect import dialect_of

    template = engine.chat_template
    if template is None:
        raise UsageError("this is a base model without a chat template; ask it to complete a text instead")
    if not request.messages:
        raise UsageError("there are no messages; give at least one")
    messages, tools = dialect_of(template).with_tools(request.messages, _tools_of(request))
    variables = dict(request.template_variables)
    if request.think is not None:
        variables |= {"enable_thinking": request.think, "thinking": request.think}
    text = template.render(messages, tools=tools, **variables)
    return text, engine.tokenize(text)


def _tools_of(request: ChatRequest) -> tuple[Tool, ...]:
    return () if request.tool_choice == "none" else request.tools


def _grammar_of(engine: "Engine", request: ChatRequest, prompt: str) -> "Grammar | None":
    from llmrun.runner.reasoning import end_of_thoughts
    from llmrun.runner.tool_dialect import dialect_of

    if request.tool_choice in ("auto", "none"):
        if request.grammar is not None and _tools_of(request):
            raise UsageError("an answer of a given form cannot call tools; set tool_choice to none or required")
        thoughts = end_of_thoughts(prompt)
        if request.grammar is not None and thoughts:  # the prompt begins them; the form is that of what follows
            return replace(request.grammar, after=thoughts)
        return request.grammar
    return dialect_of(engine.chat_template).grammar(
        request.tools, request.tool_choice, request.parallel_tool_calls, engine.tokenizer, prompt
    )


class ChatStream(AsyncIterator[ChatDelta]):
    """The answer while it is being written. Iterate to get what it grows by; the rest is final at the end."""

    def __init__(self, stream: Stream, parser: "AnswerParser") -> None:
        self.content = ""
        self.reasoning = ""
        self._stream = stream
        self._parser = parser
        self._ready: list[ChatDelta] = []
        self._pieces: list[Piece] = []  # not yet in a delta
        self._n_reasoning = 0
        self._is_flushed = self._is_cancelled = False

    async def __anext__(self) -> ChatDelta:
        while not self._ready:
            if self._is_flushed:
                raise StopAsyncIteration
            try:
                self._take(await anext(self._stream))
            except StopAsyncIteration:
                self._end()
        delta = self._ready.pop(0)
        self.content += delta.content
        self.reasoning += delta.reasoning
        return delta

    async def read(self) -> "ChatStream":
        """Read to the end."""
        async for _ in self:
            pass
        return self

    def cancel(self) -> None:
        """End the answer here; nothing if it has ended."""
        self._is_cancelled = True
        self._stream.cancel()

    @property
    def ids(self) -> list[int]:
        """Ids of the answer so far, the one that ended it included."""
        return self._stream.ids

    @property
    def prompt_ids(self) -> list[int]:
        """Ids of the prompt."""
        return self._stream.prompt_ids

    @property
    def finish_reason(self) -> ChatFinishReason:
        """Why the answer ended: "length" is a limit of the request or of the context."""
        if self._stream.finish_reason in ("length", "context"):
            return "length"
        return "tool_calls" if self._parser.tool_calls else "stop"

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended the answer."""
        return self._stream.stop_string

    @property
    def tool_calls(self) -> list[ToolCall]:
        """The calls that are complete."""
        return self._parser.tool_calls

    @property
    def seed(self) -> int:
        """The seed of the random numbers, for getting the same answer again."""
        return self._stream.seed

    @property
    def stats(self) -> Stats:
        """Token counts and times."""
        return self._stream.stats

    @property
    def usage(self) -> Usage:
        """Numbers of tokens so far."""
        stats = self._stream.stats
        return Usage(stats.n_prompt, stats.n_cached, len(self._stream.ids), self._n_reasoning)

    def _take(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            deltas = self._parser.push(piece.text, piece.id)
            self._pieces.append(piece)
            self._n_reasoning += any(delta.reasoning for delta in deltas)
            self._add(deltas)

    def _end(self) -> None:
        self._is_flushed = True
        if self._stream.finish_reason == "cancelled" and not self._is_cancelled:
            raise EngineClosed("the model was unloaded before the answer was complete; ask again")
        self._add(self._parser.flush())
        if self._pieces:  # of the ids that gave no text
            self._ready.append(ChatDelta(pieces=self._pieces))
            self._pieces = []

    def _add(self, deltas: Sequence[Delta]) -> None:
        """Append to what is ready, to the latest delta where it is of the same kind."""
        for delta in deltas:
            new = ChatDelta(delta.content, delta.reasoning, tuple(delta.tool_calls), self._pieces)
            self._pieces = []
            if self._ready and _kind(self._ready[-1]) == _kind(new) != "call":
                last = self._ready[-1]
                self._ready[-1] = replace(
                    last, content=last.content + new.content, reasoning=last.reasoning + new.reasoning,
                    pieces=last.pieces + new.pieces,
                )  # fmt: skip
            else:
                self._ready.append(new)


def _kind(delta: ChatDelta) -> str:
    return "call" if delta.tool_calls else "reasoning" if delta.reasoning else "content"
