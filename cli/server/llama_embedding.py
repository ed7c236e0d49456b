"""POST /embedding of llama-server's API: texts as vectors."""

import asyncio
from typing import Any

import numpy as np
from fastapi import Request
from fastapi.responses import JSONResponse

from llmrun.cli.server.connected import while_connected
from llmrun.cli.server.context import host_of, note
from llmrun.cli.server.errors import ApiRouter, BadRequest
from llmrun.cli.server.llama_prompt import prompts_of
from llmrun.cli.server.llama_request import EmbeddingBody
from llmrun.cli.server.no_op import refuse_unsupported
from llmrun.runner.embed_texts import embed_texts

router = ApiRouter(family="llama")

EUCLIDEAN = 2


@router.post("/embedding")
async def embedding(body: EmbeddingBody, request: Request) -> JSONResponse:
    """The vectors of texts; /embeddings is OpenAI's."""
    refuse_unsupported({"encoding_format": body.encoding_format}, {"encoding_format": ("float",)})
    if (body.content is None) == (body.input is None):
        raise BadRequest("give the text as content or as input", "content")
    async with host_of(request).use(body.model) as loaded:
        text = body.content if body.content is not None else body.input
        ids = await asyncio.to_thread(prompts_of, text, loaded.engine, "content")
        note(request, model=loaded.name, prompt_tokens=sum(map(len, ids)))
        vectors = await while_connected(request, embed_texts(loaded.engine_thread, ids, normalize=False))
    kind = EUCLIDEAN if body.embd_normalize is None else body.embd_normalize
    return JSONResponse([_entry(i, normalized(vector, kind)) for i, vector in enumerate(vectors)])


def normalized(vector: np.ndarray, kind: int) -> np.ndarray:
    """A vector (n_embd,) float32 divided by its length.

    kind: below 0 leaves it as it is, 0 makes its largest number 32,760 (which integers of 16 bits hold), 1 is the sum
    of its numbers, 2 the Euclidean length, and p above 2 the p-norm; all without signs.
    """
    if kind < 0:
        return vector
    sizes = np.abs(vector.astype(np.float64))
    largest = float(sizes.max())
    if largest == 0:
        return vector
    length = 1 / 32760 if kind == 0 else float(((sizes / largest) ** kind).sum() ** (1.0 / kind))
    return vector / (largest * length)


def _entry(index: int, vector: np.ndarray) -> dict[str, Any]:
    return {"index": index, "embedding": [vector.astype(np.float32).tolist()]}
