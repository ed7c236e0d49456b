"""What llama-server's API says of the server: its model, its settings, its slots; and what there is not."""

import asyncio
from typing import Any

from fastapi import HTTPException, Request, Response

from llmrun.cli.server.context import host_of
from llmrun.cli.server.errors import ApiRouter
from llmrun.cli.server.llama_reply import settings
from llmrun.cli.server.ollama_details import details_of
from llmrun.quant_formats.errors import UsageError
from llmrun.runner.model_host import LoadedModel
from llmrun.runner.sampler import SamplingParams
from llmrun.runner.scheduler import MAX_SEQUENCES

router = ApiRouter(family="llama")


@router.get("/props")
async def props(request: Request, model: str | None = None) -> dict[str, Any]:
    """The default model, or the one of a name, and what a request has that leaves it out. Loads nothing."""
    host = host_of(request)
    known = host.find(model)
    about = await asyncio.to_thread(details_of, known)
    loaded = _loaded(request, known.name)
    n_ctx = loaded.n_ctx if loaded else about.facts.n_ctx or 0
    params = settings(SamplingParams(), -1, -1, n_ctx, known.name)
    return {
        "default_generation_settings": {"id": 0, "n_ctx": n_ctx, "is_processing": False, "params": params},
        "total_slots": MAX_SEQUENCES,
        "model_alias": known.name,
        "model_path": known.path.name,
        "chat_template": about.template,
        "modalities": {"vision": False, "audio": False},
        "build_info": "llmrun",
        "is_sleeping": loaded is None,
    }


@router.get("/slots")
async def slots(request: Request, model: str | None = None, fail_on_no_slot: int = 0) -> list[dict[str, Any]]:
    """The places for answers that are computed at the same time, those in use first; nothing of what is in them."""
    known = host_of(request).find(model)
    loaded = _loaded(request, known.name)
    n_running = min(loaded.engine_thread.n_running, MAX_SEQUENCES) if loaded else 0
    if fail_on_no_slot and n_running == MAX_SEQUENCES:
        raise HTTPException(503, "no slot is free")
    n_ctx = loaded.n_ctx if loaded else (await asyncio.to_thread(details_of, known)).facts.n_ctx or 0
    return [{"id": i, "n_ctx": n_ctx, "is_processing": i < n_running} for i in range(MAX_SEQUENCES)]


@router.post("/slots/{slot}", include_in_schema=False)
async def slot_action(slot: int, action: str = "") -> Response:
    """Not here."""
    if action not in ("save", "restore", "erase"):
        raise UsageError("action must be save, restore or erase")
    raise HTTPException(501, "slots cannot be saved, restored or erased: what was computed is shared by all requests")


@router.post("/props", include_in_schema=False)
async def change_props() -> Response:
    """Not here."""
    raise HTTPException(501, "the properties of the server cannot be changed while it runs")


@router.post("/rerank", include_in_schema=False)
@router.post("/reranking", include_in_schema=False)
@router.post("/v1/rerank", include_in_schema=False)
@router.post("/v1/reranking", include_in_schema=False)
async def rerank() -> Response:
    """Not here."""
    raise HTTPException(501, "reranking is not supported: no architecture of a reranker is implemented")


def _loaded(request: Request, name: str) -> LoadedModel | None:
    return next((model for model in host_of(request).loaded() if model.name == name), None)
