"""The application: security, limits and logs around the routes of all APIs."""

import contextlib
import importlib
import pkgutil
from collections.abc import AsyncIterator, Iterator

from fastapi import APIRouter, FastAPI

import llmrun.cli.server as package
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

APIS = ("openai_", "ollama_", "llama_", "anthropic_")


def make_app(host: ModelHost, options: ServeOptions | None = None) -> FastAPI:
    """Make the application that serves the models of `host`; both end together."""
    options = options or ServeOptions()

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await host.close()

    # no pages of documentation: they would be fetched from the network
    app = FastAPI(
        title="llmrun", lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    app.state.host, app.state.options = host, options
    app.state.lifecycle, app.state.metrics = Lifecycle(), Metrics(host)
    for kind in HANDLED:
        app.add_exception_handler(kind, answer_error)
    app.include_router(health_router)
    app.include_router(page_router)
    if options.metrics:
        app.include_router(metrics_router)
    for router in _routers():
        app.include_router(router)
    # the one added last is the first that a request meets
    app.add_middleware(InFlight, options=options, lifecycle=app.state.lifecycle)
    app.add_middleware(Limits, options=options)
    app.add_middleware(Guard, options=options)
    app.add_middleware(RequestLog, metrics=app.state.metrics, log_prompts=options.log_prompts)
    return app


def _routers() -> Iterator[APIRouter]:
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda m: m.name):
        if module.name.startswith(APIS):
            router = getattr(importlib.import_module(f"{package.__name__}.{module.name}"), "router", None)
            if router is not None:
                yield router
