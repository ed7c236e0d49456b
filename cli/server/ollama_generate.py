"""POST /api/generate of Ollama's API: an answer to one prompt, or what stands between two texts."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from llmrun.cli.server.connected import while_connected
from llmrun.cli.server.context import client_of, host_of, note
from llmrun.cli.server.errors import ApiRouter
from llmrun.cli.server.no_op import refuse_unsupported
from llmrun.cli.server.ollama_answer import Clock, load_or_unload, n_ctx_of, sampling_of, thinking
from llmrun.cli.server.ollama_message import refuse_images
from llmrun.cli.server.ollama_prompt import chat_prompt, fill_in_of, text_prompt
from llmrun.cli.server.ollama_reply import DONE_REASONS, done, generate_part, line, logprob_entries
from llmrun.cli.server.ollama_request import GenerateBody
from llmrun.cli.server.sse import ndjson
from llmrun.quant_formats.errors import EngineClosed
from llmrun.runner.chat_request import ChatRequest, ChatStream, answer_chat
from llmrun.runner.model_host import Lease
from llmrun.runner.piece import Piece
from llmrun.runner.stream import Stream

router = ApiRouter(family="ollama")

_OF_IMAGE_MODELS = {"width": (), "height": (), "steps": ()}


@router.post("/api/generate")
async def generate(body: GenerateBody, request: Request) -> Response:
    """Answer a prompt; without one, load the model, or unload it with keep_alive 0."""
    refuse_images(body.images, "images")
    refuse_unsupported(body.model_dump(include=set(_OF_IMAGE_MODELS)), _OF_IMAGE_MODELS)
    params = sampling_of(body)
    if not body.prompt and not body.suffix:
        return await load_or_unload(body, request, generate_part(body.model, ""))
    clock = Clock()
    lease = await host_of(request).lease(body.model, body.keep_alive)
    try:
        clock.loaded()
        note(request, model=lease.model.name)
        engine, thread = lease.model.engine, lease.model.engine_thread
        ids = await asyncio.to_thread(text_prompt, body, engine)
        if body.suffix:
            params = dataclasses.replace(params, stop_ids=fill_in_of(engine, body.model).stop_ids)
        stream: Stream | ChatStream
        if ids is not None:
            grammar = body.grammar
            constraint = None
            if grammar is not None:
                constraint = await asyncio.to_thread(engine.grammar_compiler.constraint, grammar)
            stream = thread.submit(ids, params, constraint=constraint, n_ctx=n_ctx_of(body), client=client_of(request))
        else:
            think, variables = thinking(body, engine)
            chat = ChatRequest(
                messages=chat_prompt(body),
                params=params,
                think=think,
                grammar=body.grammar,
                template_variables=variables,
                n_ctx=n_ctx_of(body),
                client=client_of(request),
            )
            stream = await answer_chat(thread, chat)
        answer = GenerateAnswer(body, stream, lease, clock)
        if body.streams:
            return ndjson(answer.lines())
        return JSONResponse(await while_connected(request, answer.whole()))
    except BaseException:
        lease.release()
        raise


class Part(NamedTuple):
    """What came of an answer since the last time."""

    text: str
    thinking: str
    pieces: list[Piece]  # with log probabilities, if they were asked for


class GenerateAnswer:
    """An answer on its way to the client."""

    def __init__(self, body: GenerateBody, stream: Stream | ChatStream, lease: Lease, clock: Clock) -> None:
        self._body = body
        self._stream = stream
        self._lease = lease
        self._clock = clock

    async def lines(self) -> AsyncIterator[bytes]:
        """The lines of a stream."""
        try:
            async for part in self._parts():
                yield line(part)
            yield line(self._end(generate_part(self._body.model, "")))
        finally:
            self.close()

    async def whole(self) -> dict[str, Any]:
        """The answer in one object."""
        text, thought, logprobs = [], [], []
        try:
            async for part in self._parts():
                text.append(part["response"])
                thought.append(part.get("thinking", ""))
                logprobs += part.get("logprobs", [])
            return self._end(generate_part(self._body.model, "".join(text), "".join(thought), logprobs))
        finally:
            self.close()

    async def _parts(self) -> AsyncIterator[dict[str, Any]]:
        tokenizer = self._lease.model.engine.tokenizer
        async for part in _parts_of(self._stream):
            logprobs = logprob_entries(part.pieces, tokenizer)
            if part.text or part.thinking or logprobs:
                yield generate_part(self._body.model, part.text, part.thinking, logprobs)

    def _end(self, part: dict[str, Any]) -> dict[str, Any]:
        reason = DONE_REASONS.get(self._stream.finish_reason or "", "stop")
        last = done(part, reason)
        if not self._body.raw:
            last["context"] = self._context()
        return last | self._clock.metrics(self._stream.stats)

    def _context(self) -> list[int]:
        """The ids of prompt and answer, without the one that ended it: the next turn brings that with it."""
        answer = self._stream.ids
        ended = answer and answer[-1] in self._lease.model.engine.tokenizer.stop_ids
        return [*self._stream.prompt_ids, *(answer[:-1] if ended else answer)]

    def close(self) -> None:
        """Compute nothing more for it, and let the model go; nothing the second time."""
        self._stream.cancel()
        self._lease.release()

    def __del__(self) -> None:
        self.close()  # of a client that left before the first line


async def _parts_of(stream: Stream | ChatStream) -> AsyncIterator[Part]:
    """The parts of an answer, whether it was parsed for thoughts or not."""
    if isinstance(stream, ChatStream):
        async for delta in stream:
            yield Part(delta.content, delta.reasoning, delta.pieces)
    else:
        async for pieces in stream:
            yield Part("".join(piece.text for piece in pieces), "", pieces)
        if stream.finish_reason == "cancelled":
            raise EngineClosed("the model was unloaded before the answer was complete; ask again")
