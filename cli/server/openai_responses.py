"""The Responses API of OpenAI."""

import asyncio
import secrets
from collections.abc import AsyncGenerator
from typing import Annotated, Literal
from weakref import WeakKeyDictionary

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.responses import JSONResponse, Response

from llmrun.cli.server.context import client_of, host_of, note
from llmrun.cli.server.errors import ApiRouter, BadRequest, error_body
from llmrun.cli.server.leased import Leased
from llmrun.cli.server.logs import log_error
from llmrun.cli.server.openai_reply import chat_logprobs
from llmrun.cli.server.openai_responses_items import Item, written_items
from llmrun.cli.server.openai_responses_reply import ResponseReply, event_bytes, new_response
from llmrun.cli.server.openai_responses_request import PromptFields, ResponseRequest, chat_request
from llmrun.cli.server.openai_responses_store import ResponseStore, StoredResponse
from llmrun.cli.server.read_all import read_all
from llmrun.cli.server.sse import sse
from llmrun.quant_formats.errors import LlmrunError
from llmrun.runner.chat_request import ChatStream, answer_chat, prompt_of

router = ApiRouter(family="openai")

_stores: WeakKeyDictionary[FastAPI, ResponseStore] = WeakKeyDictionary()
MAX_ITEMS = 100  # of one page of a list


def store_of(request: Request) -> ResponseStore:
    """The responses that this server keeps."""
    return _stores.setdefault(request.app, ResponseStore())


@router.post("/responses", include_in_schema=False)
@router.post("/v1/responses")
async def create_response(body: ResponseRequest, request: Request) -> Response:
    """Answer, and keep the answer unless `store` is false."""
    if body.stream_options is not None and not body.stream:
        raise BadRequest("stream_options is for streams; set stream to true or leave it out", "stream_options")
    conversation = _conversation(body, store_of(request))
    chat = chat_request(body, conversation, client_of(request))
    lease = await host_of(request).lease(body.model)
    try:
        stream = await answer_chat(lease.model.engine_thread, chat)
        response = new_response(body, f"resp_{secrets.token_hex(16)}", chat.params)
    except BaseException:
        lease.release()
        raise
    tokenizer = lease.model.engine.tokenizer
    reply = ResponseReply(response, lambda pieces: chat_logprobs(pieces, tokenizer)["content"])
    events = Leased(lease, _events(request, stream, reply, conversation, tells_errors=bool(body.stream)))
    if body.stream:
        return sse(events)
    await read_all(request, events)
    return JSONResponse(response)


@router.post("/responses/input_tokens", include_in_schema=False)
@router.post("/v1/responses/input_tokens")
async def count_input_tokens(body: PromptFields, request: Request) -> Response:
    """Say how many tokens the prompt of a request has."""
    chat = chat_request(body, _conversation(body, store_of(request)), client_of(request))
    async with host_of(request).use(body.model) as loaded:
        _, ids = await asyncio.to_thread(prompt_of, loaded.engine, chat)
    return JSONResponse({"object": "response.input_tokens", "input_tokens": len(ids)})


@router.get("/responses/{response_id}", include_in_schema=False)
@router.get("/v1/responses/{response_id}")
async def get_response(response_id: str, request: Request, stream: bool = False) -> Response:
    """A response that is kept or being written."""
    if stream:
        raise BadRequest("a stream cannot be read again; leave stream out to get the response so far", "stream")
    return JSONResponse(_stored(request, response_id).response)


@router.delete("/responses/{response_id}", include_in_schema=False)
@router.delete("/v1/responses/{response_id}")
async def delete_response(response_id: str, request: Request) -> Response:
    """Forget a response; one that is being written ends."""
    _stored(request, response_id)
    store_of(request).delete(response_id)
    return JSONResponse({"id": response_id, "object": "response", "deleted": True})


@router.post("/responses/{response_id}/cancel", include_in_schema=False)
@router.post("/v1/responses/{response_id}/cancel")
async def cancel_response(response_id: str, request: Request) -> Response:
    """End a response that is being written."""
    stored = _stored(request, response_id)
    if stored.cancel is not None:
        stored.cancel()
        stored.response["status"] = "cancelled"
    elif stored.response["status"] != "cancelled":
        raise BadRequest("the response has ended already, so it cannot be cancelled", "response_id")
    return JSONResponse(stored.response)


@router.get("/responses/{response_id}/input_items", include_in_schema=False)
@router.get("/v1/responses/{response_id}/input_items")
async def list_input_items(
    response_id: str,
    request: Request,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=MAX_ITEMS)] = 20,
    order: Literal["asc", "desc"] = "desc",
) -> Response:
    """What a response was made from, the conversation before it included."""
    items = list(_stored(request, response_id).input)
    if order == "desc":
        items.reverse()
    if after is not None:
        ids = [item["id"] for item in items]
        if after not in ids:
            raise BadRequest(f"no input item of the response has the id {after[:100]!r}", "after")
        items = items[ids.index(after) + 1 :]
    page = items[:limit]
    first, last = (page[0]["id"], page[-1]["id"]) if page else ("", "")
    more = len(items) > limit
    return JSONResponse({"object": "list", "data": page, "first_id": first, "last_id": last, "has_more": more})


def _conversation(body: PromptFields, store: ResponseStore) -> tuple[Item, ...]:
    """What the response is made from: the conversation of a previous one, and the input."""
    items = written_items(body.input)
    if body.previous_response_id is None:
        return items
    previous = store.get(body.previous_response_id)
    if previous is None or previous.cancel is not None:
        reason = "there is no such response any more" if previous is None else "that response has not ended"
        raise BadRequest(f"previous_response_id: {reason}", "previous_response_id", code="previous_response_not_found")
    return (*previous.conversation, *items)


def _stored(request: Request, response_id: str) -> StoredResponse:
    stored = store_of(request).get(response_id)
    if stored is None:
        raise HTTPException(404, f"there is no response {response_id[:100]!r}; only the last ones are kept")
    return stored


async def _events(
    request: Request, stream: ChatStream, reply: ResponseReply, conversation: tuple[Item, ...], tells_errors: bool
) -> AsyncGenerator[bytes, None]:
    """The answer as server-sent events, several at once where they came at once; the response is stored meanwhile.

    tells_errors: what goes wrong becomes an event, as the status has been sent; else it is raised.
    """
    stored = StoredResponse(reply.response, conversation, stream.cancel)
    store = store_of(request)
    if reply.response["store"]:
        store.begin(stored)
    try:
        yield b"".join(map(event_bytes, reply.start()))
        async for delta in stream:
            if events := reply.push(delta):
                yield b"".join(map(event_bytes, events))
        yield b"".join(map(event_bytes, reply.end(stream)))
        note(request, n_prompt=stream.usage.n_prompt, n_generated=stream.usage.n_generated)
    except LlmrunError as error:
        events = reply.fail(error_body(error, request.scope)["error"]["message"])
        if not tells_errors:
            raise
        log_error(error, request.scope)
        yield b"".join(map(event_bytes, events))
    finally:
        stream.cancel()
        reply.abandon()
        store.finish(stored)
