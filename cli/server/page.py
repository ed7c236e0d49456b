"""The page that describes all routes, for programs that write clients or tests."""

import asyncio

from fastapi import Request
from fastapi.responses import JSONResponse

from llmrun.cli.server.errors import ApiRouter

router = ApiRouter("llama")


@router.get("/openapi.json", include_in_schema=False)
async def page(request: Request) -> JSONResponse:
    """All routes in OpenAPI's format."""
    # half a second of work the first time, which no stream should wait for
    return JSONResponse(await asyncio.to_thread(request.app.openapi))
