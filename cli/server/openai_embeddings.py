"""Embeddings of the OpenAI API."""

import asyncio
import base64
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from fastapi import Request
from fastapi.responses import Response
from pydantic import Field

from llmrun.cli.server.connected import while_connected
from llmrun.cli.server.context import host_of, note
from llmrun.cli.server.errors import ApiRouter, BadRequest
from llmrun.cli.server.json_text import compact, quoted
from llmrun.cli.server.openai_completion_request import TokenIds
from llmrun.cli.server.openai_fields import Fields, KeepAlive, Label
from llmrun.runner.embed_texts import embed_texts
from llmrun.runner.tokenizer import Tokenizer

router = ApiRouter("openai")

MAX_INPUTS = 2048  # of the API


class EmbeddingRequest(Fields):
    """All parameters of `POST /v1/embeddings`."""

    input: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=MAX_INPUTS)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_INPUTS)]
    )
    model: str
    dimensions: int | None = Field(None, description="only what the model's vectors have")
    encoding_format: Literal["float", "base64"] | None = None
    keep_alive: KeepAlive = None
    user: Label = None

    def texts(self, tokenizer: Tokenizer) -> list[list[int]]:
        """Return the ids of each input; raises BadRequest for one that is empty."""
        if isinstance(self.input, str):
            return [_ids(self.input, tokenizer)]
        if isinstance(self.input[0], int):
            return [self.input]
        return [_ids(text, tokenizer) for text in self.input]


@router.post("/embeddings", include_in_schema=False)
@router.post("/v1/embeddings")
async def embeddings(body: EmbeddingRequest, request: Request) -> Response:
    """Turn texts into vectors."""
    async with host_of(request).use(body.model, body.keep_alive) as loaded:
        n_embd = loaded.engine.model.config.n_embd
        if body.dimensions not in (None, n_embd):
            message = (
                f"dimensions must be {n_embd} for this model, which was not made for shorter vectors; leave it out"
            )
            raise BadRequest(message, "dimensions")
        texts = await asyncio.to_thread(body.texts, loaded.engine.tokenizer)
        n_tokens = sum(map(len, texts))
        note(request, model=loaded.name, prompt_tokens=n_tokens)
        vectors = await while_connected(request, embed_texts(loaded.engine_thread, texts))
        reply = await asyncio.to_thread(_reply, vectors, body.encoding_format, loaded.name, n_tokens)
    return Response(reply, media_type="application/json")


def _ids(text: str | Sequence[int], tokenizer: Tokenizer) -> list[int]:
    if text == "":
        raise BadRequest("input has an empty text; give at least one word", "input")
    return tokenizer.encode(text) if isinstance(text, str) else list(text)


def _reply(vectors: np.ndarray, encoding: str | None, model: str, n_tokens: int) -> str:
    """Write the reply; numbers have as many digits as single precision needs."""
    assert np.isfinite(vectors).all()
    entries = (
        f'{{"object":"embedding","index":{index},"embedding":{_written(vector, encoding)}}}'
        for index, vector in enumerate(vectors)
    )
    usage = compact({"prompt_tokens": n_tokens, "total_tokens": n_tokens})
    return f'{{"object":"list","data":[{",".join(entries)}],"model":{quoted(model)},"usage":{usage}}}'


def _written(vector: np.ndarray, encoding: str | None) -> str:
    if encoding == "base64":
        return f'"{base64.b64encode(vector.astype("<f4").tobytes()).decode()}"'
    return f"[{','.join(map(str, vector))}]"
