"""POST /completion of llama-server's API: what follows a prompt, or several."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from llmrun.cli.server.connected import while_connected
from llmrun.cli.server.context import client_of, host_of, note
from llmrun.cli.server.errors import ApiRouter
from llmrun.cli.server.json_text import compact
from llmrun.cli.server.llama_limits import LineLimits
from llmrun.cli.server.llama_prompt import prompts_of
from llmrun.cli.server.llama_reply import final, how_it_ended, part, probabilities, select, settings
from llmrun.cli.server.llama_request import CompletionBody
from llmrun.cli.server.llama_sampling import grammar, n_predict, sampling
from llmrun.cli.server.merge import merged
from llmrun.cli.server.sse import sse
from llmrun.quant_formats.errors import EngineClosed
from llmrun.runner.constraint import Constraint
from llmrun.runner.engine import Engine
from llmrun.runner.model_host import Lease
from llmrun.runner.piece import Piece
from llmrun.runner.sampler import SamplingParams
from llmrun.runner.stream import Stream

router = ApiRouter(family="llama")


@router.post("/completion")
@router.post("/completions", include_in_schema=False)
async def completion(body: CompletionBody, request: Request) -> Response:
    """Continue a prompt."""
    return await complete(
        body, request, lambda engine: [prepared(body, engine, ids) for ids in prompts_of(body.prompt, engine)]
    )


@dataclass(frozen=True)
class Asked:
    """One prompt, checked and ready to be continued."""

    ids: list[int]
    params: SamplingParams
    constraint: Constraint | None
    left_out: dict[str, Any] = field(default_factory=dict)  # of what was to be in the prompt


def prepared(body: CompletionBody, engine: Engine, ids: list[int]) -> Asked:
    """Check a request; raises UsageError or PromptTooLong."""
    params = sampling(body, engine.tokenizer)
    engine.check_request(ids, params)
    form = grammar(body)
    return Asked(ids, params, engine.grammar_compiler.constraint(form) if form else None)


async def complete(body: CompletionBody, request: Request, prepare: Callable[[Engine], list[Asked]]) -> Response:
    """Answer with what follows the prompts that `prepare`, on another thread, makes for the model."""
    lease = await host_of(request).lease(body.model)
    try:
        note(request, model=lease.model.name)
        asked = await asyncio.to_thread(prepare, lease.model.engine)
        answers = Answers([_begin(body, one, i, lease, request) for i, one in enumerate(asked)], lease)
        if body.stream:
            return sse(answers.events())
        replies = await while_connected(request, answers.replies())
        return JSONResponse(replies[0] if len(replies) == 1 else replies)
    except BaseException:
        lease.release()
        raise


def _begin(body: CompletionBody, asked: Asked, index: int, lease: Lease, request: Request) -> "Answer":
    stream = lease.model.engine_thread.submit(
        asked.ids, asked.params, constraint=asked.constraint, client=client_of(request)
    )
    return Answer(body, asked, index, stream, lease)


class Answer:
    """One answer on its way to the client."""

    def __init__(self, body: CompletionBody, asked: Asked, index: int, stream: Stream, lease: Lease) -> None:
        self.stream = stream
        self._body = body
        self._asked = asked
        self._index = index
        self._model = lease.model
        self._limits = LineLimits(body.n_indent or 0, max(0.0, body.t_max_predict_ms or 0.0) / 1000)
        self._is_empty = n_predict(body) == 0
        self._text: list[str] = []
        self._ids: list[int] = []
        self._pieces: list[Piece] = []

    async def parts(self) -> AsyncIterator[dict[str, Any]]:
        """The events of the answer, all but the last."""
        async for pieces in self.stream:
            if self._is_empty:  # an id was asked for because the prompt alone cannot be
                continue
            kept: list[Piece] = []
            text = ""
            for piece in pieces:
                if self._limits.is_over:
                    break
                text += self._limits.push(piece.text)
                kept.append(piece)
            self._text.append(text)
            self._ids += [piece.id for piece in kept]
            self._pieces += kept
            yield self._part(text, kept)
            if self._limits.is_over:
                self.stream.cancel()
                return
        if self.stream.finish_reason == "cancelled":
            raise EngineClosed("the model was unloaded before the answer was complete; ask again")

    def last(self, is_stream: bool) -> dict[str, Any]:
        """The last event of a stream, or the whole reply."""
        reason = "length" if self._is_empty else self.stream.finish_reason or "stop"
        tokenizer, stats = self._model.engine.tokenizer, self.stream.stats
        ids = self._ids if self._body.return_tokens and not is_stream else []
        reply = final(
            index=self._index,
            slot=self._body.id_slot or 0,
            model=self._model.name,
            prompt=tokenizer.decode(self._asked.ids, skip_special=False),
            text="" if is_stream else "".join(self._text),
            ids=ids,
            n_predicted=len(self._ids),
            stats=stats,
            ended=how_it_ended(reason, self.stream.stop_string, self._limits.is_over),
            has_new_line=self._limits.has_line_break,
            truncated=reason == "context",
            settings=settings(
                self._asked.params, n_predict(self._body), self.stream.seed, self._model.n_ctx, self._model.name
            ),
        )
        if self._asked.left_out:
            reply["left_out"] = self._asked.left_out
        if self._pieces and not is_stream and self._asked.params.logprobs is not None:
            reply["completion_probabilities"] = probabilities(self._pieces, tokenizer)
        return select(reply, self._body.response_fields)

    def _part(self, text: str, pieces: list[Piece]) -> dict[str, Any]:
        event = part(
            self._index,
            self._body.id_slot or 0,
            text,
            [piece.id for piece in pieces],
            len(self._ids),
            len(self._asked.ids),
            self.stream.stats if self._body.timings_per_token else None,
        )
        if self._asked.params.logprobs is not None:
            event["completion_probabilities"] = probabilities(pieces, self._model.engine.tokenizer)
        return event


class Answers:
    """The answers to the prompts of one request."""

    def __init__(self, answers: list[Answer], lease: Lease) -> None:
        self._answers = answers
        self._lease = lease

    async def events(self) -> AsyncIterator[bytes]:
        """The events of a stream."""
        try:
            async for batch in merged([answer.parts() for answer in self._answers]):
                events = [self._answers[i].last(is_stream=True) if item is None else item for i, item in batch]
                yield b"".join(b"data: " + compact(event).encode() + b"\n\n" for event in events)
        finally:
            self.close()

    async def replies(self) -> list[dict[str, Any]]:
        """The whole replies."""
        try:
            async for _ in merged([answer.parts() for answer in self._answers]):
                pass
            return [answer.last(is_stream=False) for answer in self._answers]
        finally:
            self.close()

    def close(self) -> None:
        """Compute nothing more for them, and let the model go; nothing the second time."""
        for answer in self._answers:
            answer.stream.cancel()
        self._lease.release()

    def __del__(self) -> None:
        self.close()  # of a client that left before the first event
