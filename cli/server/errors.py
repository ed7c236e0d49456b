"""What went wrong with a request, as a status and a body in the shape of the API that was asked."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from fastapi import APIRouter, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import Scope

from llmrun.cli.server.context import request_id
from llmrun.cli.server.json_body import JsonRequest, read_as_json
from llmrun.quant_formats.errors import (
    ContextTooLong,
    DownloadError,
    EngineClosed,
    InputError,
    LlmrunError,
    MissingFile,
    OutOfMemory,
    PromptTooLong,
    QueueFull,
    Stopping,
    TemplateError,
    TimedOut,
    UnknownModel,
    UsageError,
)

Family = Literal["openai", "ollama", "anthropic", "llama"]

RETRY_AFTER = 1  # seconds; a queue moves on with every answer that ends


class BadRequest(UsageError):
    """A request that makes no sense or asks for what is not supported; `param` is the field, such as "tools.0.name"."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param, self.code = param, code


@dataclass(frozen=True)
class Fault:
    """What went wrong, before it takes the shape of an API."""

    status: int
    message: str
    param: str | None = None  # the field of the request
    code: str | None = None
    retry_after: int | None = None  # seconds
    facts: Mapping[str, int] = field(default_factory=dict)  # numbers that clients of llama-server read


def fault_of(error: Exception, request: str) -> Fault:
    """The fault for an error. What is not the client's doing is told in general terms: the log has the rest.

    request: the id under which the log has it.
    """
    match error:
        case PromptTooLong():
            facts = {"n_prompt_tokens": error.n_prompt, "n_ctx": error.n_ctx}
            return Fault(
                400,
                str(error),
                code="context_length_exceeded",
                facts={name: number for name, number in facts.items() if number is not None},
            )
        case BadRequest():
            return Fault(400, str(error), error.param, error.code)
        case UsageError() | InputError() | ContextTooLong() | TemplateError():
            return Fault(400, str(error))
        case UnknownModel():
            return Fault(404, str(error), "model", "model_not_found")
        case MissingFile():
            return Fault(404, "the file of the model is not there any more", "model", "model_not_found")
        case QueueFull() | Stopping() | EngineClosed():
            return Fault(503, str(error), retry_after=RETRY_AFTER)
        case TimedOut():
            return Fault(504, str(error), code="timeout")
        case OutOfMemory():
            return Fault(503, "not enough memory is free for the model; try again later", retry_after=RETRY_AFTER)
        case DownloadError():
            return Fault(502, f"the model cannot be fetched; the log of the server says why, at {request}")
        case RequestValidationError():
            return _validation_fault(error)
        case StarletteHTTPException():
            return Fault(error.status_code, str(error.detail))
        case LlmrunError():
            return Fault(500, f"the request cannot be answered; the log of the server says why, at {request}")
    return Fault(500, f"internal error; the log of the server has the details, at {request}")


def _validation_fault(error: RequestValidationError) -> Fault:
    """The first thing that is wrong, named by its field; never the value, which may be long or private."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"] if part != "body"]
    name = ".".join(path) or None
    if first["type"] == "extra_forbidden":
        return Fault(400, f"{name} is not a known field", name, "unknown_parameter")
    if first["type"] == "missing":
        return Fault(400, f"{name or 'the body'} is missing", name, "missing_required_parameter")
    message = first["msg"].removeprefix("Value error, ")
    return Fault(400, f"{name}: {message}" if name else f"the body: {message}", name, "invalid_value")


def body_of(fault: Fault, family: Family, request: str) -> dict[str, Any]:
    """The body of an answer, or of the event that ends a stream."""
    match family:
        case "ollama":
            return {"error": fault.message}
        case "anthropic":
            kind = {
                400: "invalid_request_error",
                401: "authentication_error",
                403: "permission_error",
                404: "not_found_error",
                413: "request_too_large",
                503: "overloaded_error",
                504: "timeout_error",
            }.get(fault.status, "api_error" if fault.status >= 500 else "invalid_request_error")
            return {"type": "error", "error": {"type": kind, "message": fault.message}, "request_id": request}
        case "llama":
            return {
                "error": {"code": fault.status, "message": fault.message, "type": _llama_kind(fault), **fault.facts}
            }
        case "openai":
            kind = "server_error" if fault.status >= 500 else "invalid_request_error"
            return {"error": {"message": fault.message, "type": kind, "param": fault.param, "code": fault.code}}


def _llama_kind(fault: Fault) -> str:
    if fault.code == "context_length_exceeded":
        return "exceed_context_size_error"
    return {
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        501: "not_supported_error",
        503: "unavailable_error",
    }.get(fault.status, "server_error" if fault.status >= 500 else "invalid_request_error")


def error_body(error: Exception, scope: Scope) -> dict[str, Any]:
    """The body for an error that comes while a stream is running, in the shape of the route's API."""
    request = request_id(scope)
    return body_of(fault_of(error, request), family_of(scope), request)


def error_response(fault: Fault, scope: Scope, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The whole answer for a fault."""
    all_headers = dict(headers or {})
    if fault.retry_after is not None:
        all_headers["Retry-After"] = str(fault.retry_after)
    return JSONResponse(body_of(fault, family_of(scope), request_id(scope)), fault.status, all_headers)


async def answer_error(request: Request, error: Exception) -> JSONResponse:
    """The handler of all errors that are raised on purpose."""
    if isinstance(error, LlmrunError):
        from llmrun.cli.server.logs import log_error

        log_error(error, request.scope)
    headers = error.headers if isinstance(error, StarletteHTTPException) else None
    return error_response(fault_of(error, request_id(request.scope)), request.scope, headers)


def family_of(scope: Scope) -> Family:
    """The API that a request speaks: that of its route, or the likeliest for its path."""
    route = scope.get("route")
    if isinstance(route, ApiRoute):
        return route.family
    path = scope["path"]
    if path.startswith("/api/"):
        return "ollama"
    if path.startswith(("/v1/messages", "/messages")):
        return "anthropic"
    return "openai" if path.startswith(("/v1/", "/chat/")) else "llama"


class ApiRoute(APIRoute):
    """A route that knows its API and reads every body as JSON, by stricter rules than Python's."""

    family: Family

    def get_route_handler(self) -> Any:
        """What FastAPI calls with a request."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Any:
            return await handler(JsonRequest(read_as_json(request.scope), request.receive))

        return handle


def ApiRouter(family: Family, **options: Any) -> APIRouter:  # it makes a router, and reads like one
    """Make a router whose errors have the shape of an API."""
    route_class = type(f"{family.title()}Route", (ApiRoute,), {"family": family})
    return APIRouter(route_class=route_class, **options)


HANDLED: tuple[type[Exception], ...] = (LlmrunError, RequestValidationError, StarletteHTTPException, HTTPException)
