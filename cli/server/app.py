"""The application: security, limits and logs around the routes of all APIs."""

import contextlib
from collections.abc import AsyncIterator
from importlib.metadata import version

from fastapi import FastAPI

from llmrun.cli.server import (
    anthropic_messages,
    llama_completion,
    llama_embedding,
    llama_infill,
    llama_props,
    llama_tokens,
    ollama_chat,
    ollama_embed,
    ollama_generate,
    ollama_models,
    ollama_store,
    openai_chat,
    openai_completions,
    openai_embeddings,
    openai_fill_in,
    openai_models,
    openai_responses,
)
from llmrun.cli.server.errors import HANDLED, answer_error
from llmrun.cli.server.health import metrics_router
from llmrun.cli.server.health import router as health_router
from llmrun.cli.server.lifecycle import InFlight, Lifecycle
from llmrun.cli.server.limits import Limits
from llmrun.cli.server.logs import RequestLog
from llmrun.cli.server.metrics import Metrics
from llmrun.cli.server.page import router as page_router
from llmrun.cli.server.security import Guard
from llmrun.cli.server.serve_options import ServeOptions
from llmrun.runner.model_host import ModelHost

# the first that has a path answers: /completions is llama-server's, /v1/completions OpenAI's
RESOURCES = (
    ollama_models,
    ollama_chat,
    ollama_generate,
    ollama_embed,
    ollama_store,
    llama_completion,
    llama_infill,
    llama_tokens,
    llama_props,
    llama_embedding,
    openai_models,
    openai_chat,
    openai_completions,
    openai_fill_in,
    openai_embeddings,
    openai_responses,
    anthropic_messages,
)

ERRORS: dict[int | str, dict[str, str]] = {
    "4XX": {"description": "The request makes no sense or is not allowed; the body says why."},
    "5XX": {"description": "The request cannot be answered now."},
}


def make_app(host: ModelHost, options: ServeOptions | None = None) -> FastAPI:
    """Make the application that serves the models of `host`; both end together."""
    options = options or ServeOptions()

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await host.close()

    # no pages of documentation: they would be fetched from the network
    app = FastAPI(
        title="llmrun",
        version=version("llmrun"),
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=ERRORS,
    )
    app.state.host, app.state.options = host, options
    app.state.lifecycle, app.state.metrics = Lifecycle(), Metrics(host)
    for kind in HANDLED:
        app.add_exception_handler(kind, answer_error)
    app.include_router(health_router)
    app.include_router(page_router)
    if options.metrics:
        app.include_router(metrics_router)
    for resource in RESOURCES:
        app.include_router(resource.router)
    # the one added last is the first that a request meets
    app.add_middleware(InFlight, options=options, lifecycle=app.state.lifecycle)
    app.add_middleware(Limits, options=options)
    app.add_middleware(Guard, options=options)
    app.add_middleware(RequestLog, metrics=app.state.metrics, log_prompts=options.log_prompts)
    return app
