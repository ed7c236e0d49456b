"""The models of the OpenAI API."""

from typing import Any

from fastapi import Request

from llmrun.cli.server.context import host_of
from llmrun.cli.server.errors import ApiRouter
from llmrun.runner.model_host import KnownModel

router = ApiRouter("openai")


@router.get("/models", include_in_schema=False)
@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    """List the models that can be asked for."""
    return {"object": "list", "data": [_entry(known) for known in host_of(request).known()]}


@router.get("/models/{name:path}", include_in_schema=False)
@router.get("/v1/models/{name:path}")
async def model(name: str, request: Request) -> dict[str, Any]:
    """Describe one model."""
    return _entry(host_of(request).find(name))


def _entry(known: KnownModel) -> dict[str, Any]:
    return {
        "id": known.name,
        "object": "model",
        "created": int(known.modified_at.timestamp()),
        "owned_by": "llmrun",
    }
