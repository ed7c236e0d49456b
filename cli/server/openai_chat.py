"""Chat completions of the OpenAI API."""

import dataclasses
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

from fastapi import Request
from fastapi.responses import Response

from llmrun.cli.server.context import client_of, host_of
from llmrun.cli.server.errors import ApiRouter
from llmrun.cli.server.json_text import compact
from llmrun.cli.server.merge import merged
from llmrun.cli.server.openai_chat_chunks import DONE, ChatChunks, tool_call_deltas
from llmrun.cli.server.openai_chat_request import ChatCompletionRequest
from llmrun.cli.server.openai_fields import seeds
from llmrun.cli.server.openai_reply import chat_logprobs, new_id, now, timings, usage
from llmrun.cli.server.sse import sse
from llmrun.runner.chat_request import ChatDelta, ChatStream, answer_chat
from llmrun.runner.piece import Piece

router = ApiRouter(family="openai")


@router.post("/chat/completions", include_in_schema=False)
@router.post("/v1/chat/completions")
async def chat_completions(body: ChatCompletionRequest, request: Request) -> Response:
    """Answer a conversation."""
