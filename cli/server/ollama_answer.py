"""What /api/generate and /api/chat have in common: checking a request, measuring it, and loading without a prompt."""

import time
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse

from llmrun.cli.server.context import host_of, note
from llmrun.cli.server.ollama_details import can_think
from llmrun.cli.server.ollama_options import OllamaOptions
from llmrun.cli.server.ollama_reply import metrics
from llmrun.cli.server.ollama_request import AnswerBody
from llmrun.quant_formats.errors import UsageError
from llmrun.runner.engine import Engine
from llmrun.runner.keep_alive import keep_alive_seconds
from llmrun.runner.sampler import SamplingParams
from llmrun.runner.stats import Stats


@dataclass
class Clock:
    """How long a request took so far, and how long of that its model was loading; in seconds."""

    started: float = field(default_factory=time.perf_counter)
    load: float = 0.0

    @property
    def elapsed(self) -> float:
        """Seconds since it came."""
        return time.perf_counter() - self.started

    def loaded(self) -> None:
        """Note that the model is there now."""
        self.load = time.perf_counter() - self.started

    def metrics(self, stats: Stats) -> dict[str, int]:
        """The numbers of the last line."""
        return metrics(stats, self.load, self.elapsed)


def sampling_of(body: AnswerBody) -> SamplingParams:
    """How to choose tokens; raises UsageError for an option that is not supported."""
    return (body.options or OllamaOptions()).sampling(body.n_logprobs)


def n_ctx_of(body: AnswerBody) -> int | None:
    """Most tokens of this request, if it sets a limit."""
    return body.options.num_ctx if body.options else None


def thinking(body: AnswerBody, engine: Engine) -> tuple[bool | None, dict[str, Any]]:
    """Whether the model is to think, and what the template is told beyond that.

    Raises UsageError if it should and cannot.
    """
    think = body.think
    if think and not (engine.chat_template and can_think(engine.chat_template.source)):
        raise UsageError(f"{body.model[:100]} does not support thinking; leave think out or set it to false")
    if isinstance(think, str):
        return True, {"reasoning_effort": think}
    return think, {}


async def load_or_unload(body: AnswerBody, request: Request, part: dict[str, Any]) -> JSONResponse:
    """Answer a request without a prompt: have the model loaded, or unloaded if it is not to be kept."""
    clock = Clock()
    host = host_of(request)
    if body.keep_alive is not None and keep_alive_seconds(body.keep_alive) == 0:
        await host.unload(body.model)
        return JSONResponse(part | {"done": True, "done_reason": "unload"})
    async with host.use(body.model, body.keep_alive) as loaded:
        clock.loaded()
        note(request, model=loaded.name)
    return JSONResponse(part | {"done": True, "done_reason": "load"})
