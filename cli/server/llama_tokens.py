"""Tokens, prompts and texts in llama-server's API: what a model would be given, without running it."""

import asyncio
from typing import Any

from fastapi import Request

from llmrun.cli.server.context import host_of
from llmrun.cli.server.errors import ApiRouter
from llmrun.cli.server.llama_request import ApplyTemplateBody, DetokenizeBody, TokenizeBody
from llmrun.cli.server.openai_messages import template_messages
from llmrun.cli.server.openai_tools import chosen_tools
from llmrun.quant_formats.errors import UsageError
from llmrun.runner.chat_request import ChatRequest, prompt_of
from llmrun.runner.tokenizer import Tokenizer
from llmrun.runner.tool import Tool

router = ApiRouter(family="llama")


@router.post("/tokenize")
async def tokenize(body: TokenizeBody, request: Request) -> dict[str, Any]:
    """The ids of a text."""
    async with host_of(request).use(body.model) as loaded:
        tokenizer = loaded.engine.tokenizer
        ids = await asyncio.to_thread(
            tokenizer.encode,
            body.content,
            add_special=bool(body.add_special),
            parse_special=body.parse_special is not False,
        )
    if not body.with_pieces:
        return {"tokens": ids}
    return {"tokens": [{"id": token, "piece": _piece(token, tokenizer)} for token in ids]}


@router.post("/detokenize")
async def detokenize(body: DetokenizeBody, request: Request) -> dict[str, str]:
    """The text of ids, special tokens by their names."""
    async with host_of(request).use(body.model) as loaded:
        tokenizer = loaded.engine.tokenizer
        if not all(0 <= token < tokenizer.n_vocab for token in body.tokens):
            raise UsageError(f"tokens has ids outside of the vocabulary of {tokenizer.n_vocab}")
        return {"content": tokenizer.decode(body.tokens, skip_special=False)}


@router.post("/apply-template")
async def apply_template(body: ApplyTemplateBody, request: Request) -> dict[str, str]:
    """The prompt that messages become."""
    functions, _ = chosen_tools(body.tools or [], None)
    variables = dict(body.chat_template_kwargs or {})
    if body.add_generation_prompt is not None:
        variables["add_generation_prompt"] = body.add_generation_prompt
    chat = ChatRequest(
        template_messages(body.messages),
        tools=tuple(Tool(f.name, f.description or "", f.parameters or {}) for f in functions),
        template_variables=variables,
    )
    async with host_of(request).use(body.model) as loaded:
        return {"prompt": (await asyncio.to_thread(prompt_of, loaded.engine, chat))[0]}


def _piece(token: int, tokenizer: Tokenizer) -> str | list[int]:
    """Text of an id; its bytes if they are no whole characters."""
    data = tokenizer.token_bytes(token)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return list(data)
