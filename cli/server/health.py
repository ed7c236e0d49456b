"""Whether the server is up, and what it counts."""

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from llmrun.cli.server.errors import ApiRouter

router = ApiRouter("llama")


@router.get("/health")
@router.head("/health", include_in_schema=False)
@router.get("/v1/health", include_in_schema=False)
@router.head("/v1/health", include_in_schema=False)
async def health(request: Request) -> JSONResponse:
    """Whether requests would be answered now: 200 with ok, or 503 while the first models load or the server stops."""
    state = request.app.state.lifecycle.state
    status = {"ready": "ok", "loading": "loading model", "stopping": "shutting down"}[state]
    return JSONResponse({"status": status}, 200 if state == "ready" else 503)


metrics_router = ApiRouter("llama")


@metrics_router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Counters in the text format of Prometheus."""
    return Response(*request.app.state.metrics.page())
