"""POST /infill of llama-server's API: what an editor writes between two texts."""

import dataclasses
from typing import Any

from fastapi import Request
from fastapi.responses import Response

from llmrun.cli.server.errors import ApiRouter
from llmrun.cli.server.llama_completion import Asked, complete, prepared
from llmrun.cli.server.llama_request import InfillBody
from llmrun.cli.server.llama_sampling import n_predict
from llmrun.quant_formats.errors import UsageError
from llmrun.runner.engine import Engine
from llmrun.runner.fill_in import FillIn

router = ApiRouter(family="llama")


@router.post("/infill")
async def infill(body: InfillBody, request: Request) -> Response:
    """Write what is missing; with n_predict 0, only read what is around it, for a request that comes soon."""
    return await complete(body, request, lambda engine: [_asked(body, engine)])


def _asked(body: InfillBody, engine: Engine) -> Asked:
    """The prompt, which is cut where it does not fit: editors send more than there is room for."""
    if not isinstance(body.prompt or "", str):
        raise UsageError("prompt must be a text here")
    fill_in = FillIn.of(engine.tokenizer)
    if fill_in is None:
        raise UsageError("this model cannot fill in: it has no tokens for it; choose one for code that has")
    limit = n_predict(body)
    filled = fill_in.prompt(
        body.input_prefix or "",
        body.input_suffix or "",
        [(extra.filename or "file", extra.text) for extra in body.input_extra or ()],
        str(body.prompt or ""),
        n_ctx=engine.n_ctx,
        n_predict=None if limit < 0 else limit,
    )
    left_out: dict[str, Any] = {
        "prefix_tokens": filled.n_prefix_left_out,
        "suffix_tokens": filled.n_suffix_left_out,
        "files": list(filled.files_left_out),
    }
    asked = prepared(body, engine, filled.ids)
    params = dataclasses.replace(asked.params, stop_ids=fill_in.stop_ids)
    return dataclasses.replace(asked, params=params, left_out=left_out if any(left_out.values()) else {})
