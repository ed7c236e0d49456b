"""The messages API of Anthropic."""

import asyncio
from collections.abc import AsyncGenerator

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from llmrun.cli.server.anthropic_reply import MessageReply, event_bytes
from llmrun.cli.server.anthropic_request import CountTokensBody, MessagesBody, chat_request, shows_thinking
from llmrun.cli.server.context import client_of, host_of, note
from llmrun.cli.server.errors import ApiRouter
from llmrun.cli.server.leased import Leased
from llmrun.cli.server.read_all import read_all
from llmrun.cli.server.sse import sse
from llmrun.runner.chat_request import ChatStream, answer_chat, prompt_of

router = ApiRouter(family="anthropic")


@router.post("/messages", include_in_schema=False)
@router.post("/v1/messages")
async def messages(body: MessagesBody, request: Request) -> Response:
    """Answer a conversation."""
    chat = chat_request(body, client_of(request))
    lease = await host_of(request).lease(body.model)
    try:
        stream = await answer_chat(lease.model.engine_thread, chat)
        reply = MessageReply(body.model, stream.usage.n_prompt, body.max_tokens, shows_thinking(body))
    except BaseException:
        lease.release()
        raise
    events = Leased(lease, _events(request, stream, reply))
    if body.stream:
        return sse(events)
    await read_all(request, events)
    return JSONResponse(reply.message)


@router.post("/messages/count_tokens", include_in_schema=False)
@router.post("/v1/messages/count_tokens")
async def count_tokens(body: CountTokensBody, request: Request) -> Response:
    """Say how many tokens the prompt of a request has."""
    chat = chat_request(body, client_of(request))
    async with host_of(request).use(body.model) as loaded:
        _, ids = await asyncio.to_thread(prompt_of, loaded.engine, chat)
    return JSONResponse({"input_tokens": len(ids)})


async def _events(request: Request, stream: ChatStream, reply: MessageReply) -> AsyncGenerator[bytes, None]:
    """The answer as server-sent events, several at once where they came at once."""
    try:
        yield b"".join(map(event_bytes, reply.start()))
        async for delta in stream:
            if events := reply.push(delta):
                yield b"".join(map(event_bytes, events))
        yield b"".join(map(event_bytes, reply.end(stream)))
        note(request, n_prompt=stream.usage.n_prompt, n_generated=stream.usage.n_generated)
    finally:
        stream.cancel()
