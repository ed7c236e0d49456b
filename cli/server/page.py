"""The page that describes all routes, for programs that write clients or tests."""

import asyncio
import copy
import json
from typing import Any

from fastapi import FastAPI, Request, Response

from llmrun.cli.server.errors import ApiRouter

PATH = "/openapi.json"
_FASTAPI_ONLY = ("HTTPValidationError", "ValidationError")

router = ApiRouter("llama")


@router.get(PATH, include_in_schema=False)
async def page(request: Request) -> Response:
    """All routes in OpenAPI's format."""
    # half a second of work the first time, which no stream should wait for
    text = await asyncio.to_thread(lambda: json.dumps(make_page(request.app), ensure_ascii=False))
    return Response(text, media_type="application/json")


def make_page(app: FastAPI) -> dict[str, Any]:
    """Describe the routes of an application; what is wrong with a request is a 400 here, not a 422."""
    page = copy.deepcopy(app.openapi())
    for methods in page["paths"].values():
        for operation in methods.values():
            if operation["responses"].pop("422", None) is not None:
                operation["responses"]["4XX"] = {"description": "What is wrong, in the shape of this API's errors"}
    for name in _FASTAPI_ONLY:
        page["components"]["schemas"].pop(name, None)
    return page
