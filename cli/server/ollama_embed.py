"""POST /api/embed of Ollama's API, and /api/embeddings, its predecessor: texts as vectors."""

import asyncio
from collections.abc import Sequence

import numpy as np
from fastapi import Request
from fastapi.responses import JSONResponse

from llmrun.cli.server.connected import while_connected
from llmrun.cli.server.context import host_of, note
from llmrun.cli.server.errors import ApiRouter, BadRequest
from llmrun.cli.server.ollama_answer import Clock
from llmrun.cli.server.ollama_options import OllamaOptions
from llmrun.cli.server.ollama_reply import nanoseconds
from llmrun.cli.server.ollama_request import EmbedBody, EmbeddingsBody
from llmrun.runner.embed_texts import embed_texts
from llmrun.runner.model_host import LoadedModel

router = ApiRouter(family="ollama")


@router.post("/api/embed")
async def embed(body: EmbedBody, request: Request) -> JSONResponse:
    """The vectors of texts, each of length one; without a text, load the model."""
    texts = [body.input] if isinstance(body.input, str) else body.input
    clock = Clock()
    async with host_of(request).use(body.model, body.keep_alive) as loaded:
        clock.loaded()
        n_embd = loaded.engine.model.config.n_embd
        if body.dimensions is not None and body.dimensions > n_embd:
            raise BadRequest(f"dimensions must be at most {n_embd} for this model, not {body.dimensions}", "dimensions")
        ids = await _ids(texts if body.input else [], loaded, body.options, request)
        vectors = await while_connected(request, embed_texts(loaded.engine_thread, ids))
    return JSONResponse(
        {
            "model": body.model,
            "embeddings": _shortened(vectors, body.dimensions).tolist(),
            "total_duration": nanoseconds(clock.elapsed),
            "load_duration": nanoseconds(clock.load),
            "prompt_eval_count": sum(map(len, ids)),
        }
    )


@router.post("/api/embeddings")
async def embeddings(body: EmbeddingsBody, request: Request) -> JSONResponse:
    """The vector of one text, as long as it comes."""
    async with host_of(request).use(body.model, body.keep_alive) as loaded:
        ids = await _ids([body.prompt] if body.prompt else [], loaded, body.options, request)
        vectors = await while_connected(request, embed_texts(loaded.engine_thread, ids, normalize=False))
    return JSONResponse({"embedding": vectors[0].tolist() if len(vectors) else []})


async def _ids(
    texts: Sequence[str], loaded: LoadedModel, options: OllamaOptions | None, request: Request
) -> list[list[int]]:
    (options or OllamaOptions()).sampling()  # says what is wrong with them; they have no other effect here
    tokenizer = loaded.engine.tokenizer
    ids = await asyncio.to_thread(lambda: [tokenizer.encode(text) for text in texts])
    n_ctx = options.num_ctx if options and options.num_ctx else loaded.n_ctx
    for i, text in enumerate(ids):
        if len(text) > n_ctx:
            raise BadRequest(f"text {i + 1} has {len(text)} tokens, more than num_ctx {n_ctx}; it is not cut", "input")
    note(request, model=loaded.name, prompt_tokens=sum(map(len, ids)))
    return ids


def _shortened(vectors: np.ndarray, dimensions: int | None) -> np.ndarray:
    """The first numbers of each vector (n_texts, n_embd), made as long as one again."""
    if dimensions is None:
        return vectors
    short: np.ndarray = vectors[:, :dimensions]
    shortened: np.ndarray = short / np.maximum(np.linalg.norm(short, axis=1, keepdims=True), 1e-12)
    return shortened
