"""The log: one line of key=value pairs on standard error for each request, and for what goes wrong."""

import json
import logging
import re
import time
import traceback
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmrun.cli.server.context import notes_of, request_id
from llmrun.cli.server.errors import error_response, fault_of
from llmrun.cli.server.limits import ClientStalled
from llmrun.quant_formats.errors import LlmrunError

if TYPE_CHECKING:
    from llmrun.cli.server.metrics import Metrics

CLIENT_LEFT = 499  # no status was sent; the number that nginx made usual for it

log = logging.getLogger("llmrun.server")

_PLAIN = re.compile(r"[\w.:/@+~-]+", re.ASCII)


def start_logging(level: str) -> None:
    """Write what the server says, from a level of LOG_LEVELS on, to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter())
    for name in ("llmrun", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level.upper())
    if level != "debug":
        logging.getLogger("uvicorn").setLevel("WARNING")  # what it says of its own start is said by us


def event(name: str, level: int = logging.INFO, /, **facts: Any) -> None:
    """Log something that happened."""
    if log.isEnabledFor(level):
        log.log(level, name, extra={"facts": facts})


def log_error(error: LlmrunError, scope: Scope) -> None:
    """Log why a request was refused, in the words that are for the owner of the machine."""
    status = fault_of(error, "").status
    level = logging.ERROR if status >= 500 and status not in (503, 504) else logging.INFO
    event("refused", level, request=request_id(scope), error=type(error).__name__, reason=str(error))


class _Formatter(logging.Formatter):
    """time=... level=... event=... and the facts, each value quoted where it is not a plain word."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        facts: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage().strip(),
        }
        facts |= getattr(record, "facts", {})
        if record.exc_info:
            facts["trace"] = "".join(traceback.format_exception(*record.exc_info))
        return logfmt(facts)


def logfmt(facts: Mapping[str, Any]) -> str:
    """key=value pairs in one line, whatever the values hold."""
    return " ".join(f"{name}={_value(value)}" for name, value in facts.items())


def _value(value: Any) -> str:
    text = f"{value:.1f}" if isinstance(value, float) else str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)  # which escapes line breaks and control characters


class RequestLog:
    """Gives every request an id, logs how it went, and makes an answer of what nobody has caught."""

    def __init__(self, app: ASGIApp, metrics: "Metrics", log_prompts: bool = False) -> None:
        self.app = app
        self.metrics = metrics
        self.log_prompts = log_prompts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, then log."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        notes_of(scope)
        answer = _Watched(request_id(scope), receive, send, self.log_prompts)
        started = time.perf_counter()
        try:
            await self.app(scope, answer.receive, answer.send)
        except ClientStalled as error:
            event("stalled", logging.WARNING, request=request_id(scope), reason=str(error))
        except Exception as error:
            log.exception("failed", extra={"facts": {"request": request_id(scope)}})
            if answer.status is not None:
                raise  # the connection is cut, which tells the client
            await error_response(fault_of(error, request_id(scope)), scope)(scope, answer.receive, answer.send)
        finally:
            seconds = time.perf_counter() - started
            status = answer.status or CLIENT_LEFT
            self.metrics.count_request(scope, status, seconds)
            event("request", logging.INFO, **_facts(scope, status, seconds) | answer.texts())


def _facts(scope: Scope, status: int, seconds: float) -> dict[str, Any]:
    client = scope.get("client")
    return {
        "request": request_id(scope),
        "client": client[0] if client else "",
        "method": scope["method"],
        "path": scope["path"],
        "status": status,
        "ms": 1000 * seconds,
        **notes_of(scope),
    }


class _Watched:
    """What goes in and out for one request."""

    def __init__(self, request: str, receive: Receive, send: Send, keeps_texts: bool) -> None:
        self.status: int | None = None
        self._request = request.encode()
        self._receive, self._send = receive, send
        self._keeps_texts = keeps_texts
        self._body, self._answer = bytearray(), bytearray()

    async def receive(self) -> Message:
        message = await self._receive()
        if self._keeps_texts:
            self._body += message.get("body", b"")
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            ids = [(b"x-request-id", self._request), (b"request-id", self._request)]
            message["headers"] = [*message.get("headers", []), *ids]
        elif self._keeps_texts:
            self._answer += message.get("body", b"")
        await self._send(message)

    def texts(self) -> dict[str, str]:
        """What was asked and answered, if the owner of the machine wants to have it in the log."""
        if not self._keeps_texts:
            return {}
        return {"body": self._body.decode(errors="replace"), "answer": self._answer.decode(errors="replace")}
