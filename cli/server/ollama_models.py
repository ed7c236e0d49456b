"""Which models there are and which are loaded, in Ollama's API."""

import asyncio
import math
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import Request
from fastapi.responses import PlainTextResponse

from llmrun.cli.server.context import host_of
from llmrun.cli.server.errors import ApiRouter
from llmrun.cli.server.no_op import refuse_unsupported
from llmrun.cli.server.ollama_details import Details, details_of, model_info, tagged
from llmrun.cli.server.ollama_request import ShowBody
from llmrun.quant_formats.errors import LlmrunError
from llmrun.quant_formats.gguf_file import GGUFFile
from llmrun.runner.model_host import KnownModel, LoadedModel
from llmrun.runner.registry import entries
from llmrun.runner.sampler import SamplingParams

router = ApiRouter(family="ollama")

API_VERSION = "0.12.11"
"""The version of Ollama whose API this is: the first with log probabilities. Clients refuse one that is too old."""

_NEVER = datetime(2999, 12, 31, tzinfo=UTC)  # when a model expires that is kept for ever


@router.get("/", include_in_schema=False)
@router.head("/", include_in_schema=False)
async def root() -> PlainTextResponse:
    """Say that somebody is here, in the words that clients look for."""
    return PlainTextResponse("Ollama is running")


@router.get("/api/version")
@router.head("/api/version", include_in_schema=False)
async def version() -> dict[str, str]:
    """The version of the API."""
    return {"version": API_VERSION}


@router.get("/api/tags")
@router.head("/api/tags", include_in_schema=False)
async def tags(request: Request) -> dict[str, Any]:
    """The models that can be asked for; a file that cannot be read as a model is left out."""
    known = host_of(request).known()
    rows = [await asyncio.to_thread(_row, model) for model in known]
    return {"models": [row for row in rows if row is not None]}


@router.get("/api/ps")
async def ps(request: Request) -> dict[str, Any]:
    """The models that are loaded, the one used last first."""
    return {"models": [await asyncio.to_thread(_loaded_row, model) for model in host_of(request).ps()]}


@router.post("/api/show")
async def show(body: ShowBody, request: Request) -> dict[str, Any]:
    """What there is to know of a model."""
    refuse_unsupported(body.model_dump(), {"system": ("",), "template": ("",)})
    host = host_of(request)
    model = host.find(body.model_name)
    loaded = next((one for one in host.loaded() if one.name == model.name), None)
    return await asyncio.to_thread(_shown, model, loaded, bool(body.verbose))


def _row(model: KnownModel) -> dict[str, Any] | None:
    try:
        about = details_of(model)
        size = model.size
    except LlmrunError:  # asking for it says what is wrong with it
        return None
    return {
        "name": tagged(model.name),
        "model": tagged(model.name),
        "modified_at": _time(model.modified_at),
        "size": size,
        "digest": model.digest,
        "details": about.details,
        "capabilities": list(about.capabilities),
    }


def _loaded_row(model: LoadedModel) -> dict[str, Any]:
    return {
        "name": tagged(model.name),
        "model": tagged(model.name),
        "size": model.size,
        "digest": model.digest,
        "details": details_of(model.known).details,
        "expires_at": _time(_expiry(model)),
        "size_vram": 0,
        "context_length": model.n_ctx,
    }


def _expiry(model: LoadedModel) -> datetime:
    """When a model will be unloaded if nobody asks for it from now on."""
    if model.expires_at is not None:
        return model.expires_at
    if math.isinf(model.keep_alive):
        return _NEVER
    return min(_NEVER, datetime.now(UTC) + timedelta(seconds=min(model.keep_alive, 1e9)))


def _shown(model: KnownModel, loaded: LoadedModel | None, verbose: bool) -> dict[str, Any]:
    about = details_of(model)
    with GGUFFile.open(model.path) as gguf:
        info = model_info(gguf.metadata, about.facts, verbose)
    entry = entries().get(model.name)
    return {
        "license": (entry.license if entry else about.facts.license) or "",
        "modelfile": f"FROM {tagged(model.name)}",
        "parameters": _parameters(about, loaded),
        "template": about.shown_template,
        "details": about.details,
        "model_info": info,
        "capabilities": list(about.capabilities),
        "modified_at": _time(model.modified_at),
    }


def _parameters(about: Details, loaded: LoadedModel | None) -> str:
    """What a request has that leaves it out, one a line; clients read it line by line and take no empty one."""
    default = SamplingParams()
    n_ctx = loaded.n_ctx if loaded else about.facts.n_ctx
    values = {
        "num_ctx": n_ctx,
        "temperature": default.temperature,
        "top_k": default.top_k,
        "top_p": default.top_p,
        "min_p": default.min_p,
        "repeat_penalty": default.repeat_penalty,
        "repeat_last_n": default.penalty_last_n,
    }
    return "\n".join(f"{name:<30} {value}" for name, value in values.items() if value is not None)


def _time(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
