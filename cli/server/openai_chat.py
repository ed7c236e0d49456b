"""Chat completions of the OpenAI API."""

import dataclasses
from collections.abc import AsyncGenerator
from typing import Any, Self

from fastapi import Request
from fastapi.responses import Response

from llmrun.cli.server.connected import while_connected
from llmrun.cli.server.context import client_of, host_of, note_tokens
from llmrun.cli.server.errors import ApiRouter
from llmrun.cli.server.leased import Leased
from llmrun.cli.server.merge import merged
from llmrun.cli.server.openai_chat_chunks import ChatChunks, tool_call_deltas
from llmrun.cli.server.openai_chat_request import ChatCompletionRequest
from llmrun.cli.server.openai_fields import seeds
from llmrun.cli.server.openai_reply import DONE, chat_logprobs, envelope, json_response, timings, usage
from llmrun.cli.server.sse import sse
from llmrun.runner.chat_request import ChatDelta, ChatStream, prepare_chat
from llmrun.runner.model_host import LoadedModel
from llmrun.runner.piece import Piece

router = ApiRouter("openai")


@router.post("/chat/completions", include_in_schema=False)
@router.post("/v1/chat/completions")
async def chat_completions(body: ChatCompletionRequest, request: Request) -> Response:
    """Answer a conversation."""
    lease = await host_of(request).lease(body.model, body.keep_alive)
    try:
        answers = await ChatCompletions.begin(body, lease.model, request)
        if body.stream:
            return sse(Leased(lease, answers.events()))
        reply = await while_connected(request, answers.reply())
    except BaseException:
        lease.release()
        raise
    lease.release()
    return json_response(reply)


class ChatCompletions:
    """The answers to one request, while they are being written."""

    def __init__(
        self, body: ChatCompletionRequest, model: LoadedModel, request: Request, streams: list[ChatStream]
    ) -> None:
        self._model, self._request, self._streams = model, request, streams
        self._tokenizer = model.engine.tokenizer
        self._with_logprobs = bool(body.logprobs)
        self._with_usage = body.wants_usage
        self._service_tier = {} if body.service_tier is None else {"service_tier": "default"}

    @classmethod
    async def begin(cls, body: ChatCompletionRequest, model: LoadedModel, request: Request) -> Self:
        """Queue all answers; raises what is wrong with the request."""
        asked = body.chat_request(model.engine, client_of(request))
        prompt = await prepare_chat(model.engine_thread, asked)
        varied = [dataclasses.replace(asked.params, seed=seed) for seed in seeds(asked.params, body.n or 1)]
        return cls(body, model, request, [prompt.answer(params) for params in varied])

    async def events(self) -> AsyncGenerator[bytes, None]:
        """What a stream of the answers sends."""
        head = envelope("chatcmpl", "chat.completion.chunk", self._model) | self._service_tier
        chunks = ChatChunks(head, self._with_usage)
        opening = {"role": "assistant", "content": ""}
        yield "".join(chunks.delta(index, opening) for index in range(len(self._streams))).encode()
        async for batch in merged(self._streams):
            if written := "".join(self._event(chunks, index, delta) for index, delta in batch):
                yield written.encode()
        counts = self._usage()
        if self._with_usage:
            yield chunks.usage(counts).encode()
        yield DONE

    async def reply(self) -> dict[str, Any]:
        """The whole reply, once all answers have ended."""
        pieces: list[list[Piece]] = [[] for _ in self._streams]
        async for batch in merged(self._streams):
            for index, delta in batch:
                if delta is not None and self._with_logprobs:
                    pieces[index] += delta.pieces
        choices = [self._choice(index, stream, pieces[index]) for index, stream in enumerate(self._streams)]
        return {
            **envelope("chatcmpl", "chat.completion", self._model),
            **self._service_tier,
            "choices": choices,
            "usage": self._usage(),
            "timings": timings([stream.stats for stream in self._streams]),
        }

    def _event(self, chunks: ChatChunks, index: int, delta: ChatDelta | None) -> str:
        """Write what came for an answer; None is its end."""
        if delta is None:
            stream = self._streams[index]
            return chunks.delta(index, {}, None, stream.finish_reason, timings([stream.stats]))
        if not self._with_logprobs and not delta.tool_calls:
            reasoning = chunks.text(index, "reasoning_content", delta.reasoning) if delta.reasoning else ""
            return reasoning + (chunks.text(index, "content", delta.content) if delta.content else "")
        fields: dict[str, Any] = {}
        if delta.reasoning:
            fields["reasoning_content"] = delta.reasoning
        if delta.content:
            fields["content"] = delta.content
        if delta.tool_calls:
            fields["tool_calls"] = tool_call_deltas(delta.tool_calls)
        logprobs = self._logprobs(delta.pieces)
        return chunks.delta(index, fields, logprobs) if fields or logprobs else ""

    def _choice(self, index: int, stream: ChatStream, pieces: list[Piece]) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": stream.content, "refusal": None}
        if stream.reasoning:
            message["reasoning_content"] = stream.reasoning
        if stream.tool_calls:
            message["content"] = stream.content or None
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in stream.tool_calls
            ]
        logprobs = self._logprobs(pieces) if self._with_logprobs else None
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": stream.finish_reason}

    def _logprobs(self, pieces: list[Piece]) -> dict[str, Any] | None:
        """Log probabilities of the ids of the text; the one that ends an answer is no part of it."""
        shown = [piece for piece in pieces if piece.id not in self._tokenizer.stop_ids]
        return chat_logprobs(shown, self._tokenizer) if shown and self._with_logprobs else None

    def _usage(self) -> dict[str, Any]:
        """Count the tokens, for the reply and for the log; the prompt once, as its answers share it."""
        counts = [stream.usage for stream in self._streams]
        n_prompt, n_cached = counts[0].n_prompt, counts[0].n_cached
        n_generated = sum(one.n_generated for one in counts)
        note_tokens(self._request, self._model.name, n_prompt, n_cached, n_generated)
        return usage(n_prompt, n_cached, n_generated, sum(one.n_reasoning for one in counts))
