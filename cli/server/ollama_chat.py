"""POST /api/chat of Ollama's API: the next message of a conversation."""

from collections.abc import AsyncIterator
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from llmrun.cli.server.connected import while_connected
from llmrun.cli.server.context import client_of, host_of, note
from llmrun.cli.server.errors import ApiRouter
from llmrun.cli.server.ollama_answer import Clock, load_or_unload, n_ctx_of, sampling_of, thinking
from llmrun.cli.server.ollama_message import chat_messages, chat_tools
from llmrun.cli.server.ollama_reply import DONE_REASONS, chat_part, done, line, logprob_entries, tool_call
from llmrun.cli.server.ollama_request import ChatBody
from llmrun.cli.server.sse import ndjson
from llmrun.quant_formats.errors import UsageError
from llmrun.runner.chat_request import ChatRequest, ChatStream, answer_chat
from llmrun.runner.model_host import Lease
from llmrun.runner.tool import ToolCallDelta

router = ApiRouter(family="ollama")


@router.post("/api/chat")
async def chat(body: ChatBody, request: Request) -> Response:
    """Answer a conversation; without messages, load the model, or unload it with keep_alive 0."""
    if body.template:
        raise UsageError("template is not supported in a chat; the model's own is used, leave template out")
    params = sampling_of(body)
    if not body.messages:
        return await load_or_unload(body, request, chat_part(body.model, ""))
    messages, tools = chat_messages(body.messages), chat_tools(body.tools)
    clock = Clock()
    lease = await host_of(request).lease(body.model, body.keep_alive)
    try:
        clock.loaded()
        note(request, model=lease.model.name)
        think, variables = thinking(body, lease.model.engine)
        stream = await answer_chat(
            lease.model.engine_thread,
            ChatRequest(
                messages=messages,
                params=params,
                tools=tools,
                think=think,
                grammar=body.grammar,
                template_variables=variables,
                n_ctx=n_ctx_of(body),
                client=client_of(request),
            ),
        )
        answer = ChatAnswer(body.model, stream, lease, clock)
        if body.streams:
            return ndjson(answer.lines())
        return JSONResponse(await while_connected(request, answer.whole()))
    except BaseException:
        lease.release()
        raise


class ChatAnswer:
    """An answer on its way to the client."""

    def __init__(self, model: str, stream: ChatStream, lease: Lease, clock: Clock) -> None:
        self._model = model
        self._stream = stream
        self._lease = lease
        self._clock = clock
        self._calls = CallCollector()

    async def lines(self) -> AsyncIterator[bytes]:
        """The lines of a stream."""
        try:
            async for part in self._parts():
                yield line(part)
            yield line(self._end(chat_part(self._model, "")))
        finally:
            self.close()

    async def whole(self) -> dict[str, Any]:
        """The answer in one object."""
        content, thought, calls, logprobs = [], [], [], []
        try:
            async for part in self._parts():
                message = part["message"]
                content.append(message["content"])
                thought.append(message.get("thinking", ""))
                calls += message.get("tool_calls", [])
                logprobs += part.get("logprobs", [])
            return self._end(chat_part(self._model, "".join(content), "".join(thought), calls, logprobs))
        finally:
            self.close()

    async def _parts(self) -> AsyncIterator[dict[str, Any]]:
        tokenizer = self._lease.model.engine.tokenizer
        async for delta in self._stream:
            calls = [call for piece in delta.tool_calls for call in self._calls.add(piece)]
            logprobs = logprob_entries(delta.pieces, tokenizer)
            if delta.content or delta.reasoning or calls or logprobs:
                yield chat_part(self._model, delta.content, delta.reasoning, calls, logprobs)
        if calls := self._calls.finish():
            yield chat_part(self._model, "", tool_calls=calls)

    def _end(self, part: dict[str, Any]) -> dict[str, Any]:
        return done(
            part, DONE_REASONS.get(self._stream.finish_reason or "", "stop"), self._clock.metrics(self._stream.stats)
        )

    def close(self) -> None:
        """Compute nothing more for it, and let the model go; nothing the second time."""
        self._stream.cancel()
        self._lease.release()

    def __del__(self) -> None:
        self.close()  # of a client that left before the first line


class CallCollector:
    """Puts calls of tools together, because Ollama sends each of them whole."""

    def __init__(self) -> None:
        self._open: ToolCallDelta | None = None
        self._arguments: list[str] = []

    def add(self, delta: ToolCallDelta) -> list[dict[str, Any]]:
        """Take a piece; returns the call that is complete now, if one is."""
        complete = []
        if self._open is None or delta.index != self._open.index:
            complete = self.finish()
            self._open = delta
        self._arguments.append(delta.arguments)
        return complete

    def finish(self) -> list[dict[str, Any]]:
        """The call that the end of the answer completes, if there is one."""
        if self._open is None:
            return []
        call = tool_call(self._open.id or "", self._open.index, self._open.name or "", "".join(self._arguments))
        self._open, self._arguments = None, []
        return [call]
