"""Completions of the OpenAI API: a text goes on."""

import asyncio
import dataclasses
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import Request
from fastapi.responses import Response

from llmrun.cli.server.connected import while_connected
from llmrun.cli.server.context import client_of, host_of, note_tokens
from llmrun.cli.server.errors import ApiRouter
from llmrun.cli.server.json_text import compact, quoted
from llmrun.cli.server.leased import Leased
from llmrun.cli.server.merge import merged
from llmrun.cli.server.openai_completion import Completion, Prompt
from llmrun.cli.server.openai_completion_request import CompletionRequest
from llmrun.cli.server.openai_fields import seeds
from llmrun.cli.server.openai_fill_in_prompt import fill_in_prompt
from llmrun.cli.server.openai_grammar import grammar_of
from llmrun.cli.server.openai_reply import DONE, envelope, json_response, timings, usage
from llmrun.cli.server.sse import sse
from llmrun.runner.model_host import LoadedModel
from llmrun.runner.piece import Piece
from llmrun.runner.prompt_scores import prompt_scores
from llmrun.runner.sampler import SamplingParams
from llmrun.runner.stats import Stats
from llmrun.runner.stream import Stream

router = ApiRouter("openai")


@router.post("/completions", include_in_schema=False)
@router.post("/v1/completions")
async def completions(body: CompletionRequest, request: Request) -> Response:
    """Continue a text, or fill in what stands between it and a suffix."""
    return await answer(Completions, body, request)


async def answer(kind: "type[Completions]", body: CompletionRequest, request: Request) -> Response:
    """Answer in the shape of an endpoint."""
    body.check()
    lease = await host_of(request).lease(body.model, body.keep_alive)
    try:
        answers = await asyncio.to_thread(kind, body, lease.model, request)
        if answers.wants_scores:
            await while_connected(request, answers.score())
        answers.submit()
        if body.stream:
            return sse(Leased(lease, answers.events()))
        reply = await while_connected(request, answers.reply())
    except BaseException:
        lease.release()
        raise
    lease.release()
    return json_response(reply)


class Completions:
    """All answers to one request: `score` if that `wants_scores`, `submit`, then `events` or `reply`."""

    ID, OBJECT, CHUNK = "cmpl", "text_completion", "text_completion"

    def __init__(self, body: CompletionRequest, model: LoadedModel, request: Request) -> None:
        """Raises what is wrong with the parameters or the prompts; reads these, so it may take a while."""
        self._body, self._model, self._request = body, model, request
        self._params = body.params(model.engine.tokenizer.stop_ids)
        self._grammar = grammar_of(body)
        self._prompts = [self._prompt(given) for given in body.prompts]
        self._completions: list[Completion] = []  # of each prompt in turn
        self._envelope = envelope(self.ID, self.CHUNK if body.stream else self.OBJECT, model)
        self._head = "data: " + compact(self._envelope)[:-1]
        self._tail = ',"usage":null}\n\n' if body.wants_usage else "}\n\n"

    @property
    def wants_scores(self) -> bool:
        """Whether the log probabilities of the prompts are asked for."""
        return bool(self._body.echo) and self._body.logprobs is not None

    async def score(self) -> None:
        """Compute the log probabilities of the prompts."""
        for prompt in self._prompts:
            prompt.scores = await prompt_scores(self._model.engine_thread, prompt.ids, self._body.logprobs or 0)

    def submit(self) -> None:
        """Begin all answers; raises what is wrong with one of them, and then none goes on."""
        body, tokenizer = self._body, self._model.engine.tokenizer
        for prompt in self._prompts:
            for params in self._varied():
                stream = None if params is None else self._stream(prompt, params)
                self._completions.append(Completion(prompt, stream, bool(body.echo), body.logprobs, tokenizer))

    async def events(self) -> AsyncGenerator[bytes, None]:
        """What a stream of the answers sends."""
        for index, completion in enumerate(self._completions):
            text, logprobs = completion.opening()
            if text:
                yield self._chunk(index, text, logprobs).encode()
            if completion.stream is None:
                yield self._chunk(index, "", None, completion.finish_reason).encode()
        async for batch in merged(self._streams):
            if written := "".join(self._event(index, pieces) for index, pieces in batch):
                yield written.encode()
        counts = self._usage()
        if self._body.wants_usage:
            yield f'{self._head},"choices":[],"usage":{compact(counts)}}}\n\n'.encode()
        yield DONE

    async def reply(self) -> dict[str, Any]:
        """The whole reply, once all answers have ended."""
        async for batch in merged(self._streams):
            for index, pieces in batch:
                self._completions[index].pieces += pieces or []
        choices: list[dict[str, Any]] = []
        n, n_candidates = self._body.n_choices, self._body.n_candidates
        for first in range(0, len(self._completions), n_candidates):
            candidates = self._completions[first : first + n_candidates]
            if n_candidates > n:
                candidates = sorted(candidates, key=lambda one: -one.mean_logprob)[:n]
            choices += [self._choice(one, len(choices) + i) for i, one in enumerate(candidates)]
        reply = {**self._envelope, "choices": choices, "usage": self._usage()}
        return reply | ({"timings": timings(self._stats)} if self._stats else {})

    @property
    def _streams(self) -> list[Stream]:
        """The streams of the answers; if there is one, every answer has one."""
        return [completion.stream for completion in self._completions if completion.stream is not None]

    @property
    def _stats(self) -> list[Stats]:
        return [stream.stats for stream in self._streams]

    def _prompt(self, given: str | list[int]) -> Prompt:
        """Take one prompt of the request."""
        body, engine = self._body, self._model.engine
        if isinstance(given, str):
            text, ids = given, self._ids(given)
        else:
            text, ids = "", given
        # checks the ids and their number
        engine.new_sequence(ids, self._params or SamplingParams(), n_ctx=body.num_ctx)
        if body.echo and not text:
            text = engine.tokenizer.decode(ids)
        return Prompt(text, list(ids))

    def _ids(self, text: str) -> list[int]:
        body, engine = self._body, self._model.engine
        if body.suffix is None:
            return engine.tokenize(text)
        ids, stop_ids = fill_in_prompt(engine, text, body.suffix, body.num_ctx, body.max_tokens)
        if self._params is not None:
            self._params = dataclasses.replace(self._params, stop_ids=stop_ids)
        return ids

    def _varied(self) -> list[SamplingParams | None]:
        """The parameters of the answers to one prompt, which differ by their seeds."""
        params = self._params
        if params is None:
            return [None] * self._body.n_candidates
        return [dataclasses.replace(params, seed=seed) for seed in seeds(params, self._body.n_candidates)]

    def _stream(self, prompt: Prompt, params: SamplingParams) -> Stream:
        model, body = self._model, self._body
        grammar = self._grammar
        return model.engine_thread.submit(
            prompt.ids,
            params,
            constraint=None if grammar is None else model.engine.grammar_compiler.constraint(grammar),
            n_ctx=body.num_ctx,
            client=client_of(self._request),
            priority=body.priority or 0,
        )

    def _event(self, index: int, pieces: list[Piece] | None) -> str:
        """Write what came for an answer; None is its end."""
        completion = self._completions[index]
        if pieces is None:
            return self._chunk(index, "", None, completion.finish_reason, self._streams[index].stats)
        text, logprobs = completion.show(pieces)
        return self._chunk(index, text, logprobs) if text or logprobs else ""

    def _choice(self, completion: Completion, index: int) -> dict[str, Any]:
        """Show a whole answer."""
        return completion.choice(index)

    def _shown(self, text: str) -> str:
        """Write the text of a chunk's choice, as its member of the JSON object."""
        return f'"text":{quoted(text)}'

    def _chunk(
        self,
        index: int,
        text: str,
        logprobs: dict[str, Any] | None,
        finish_reason: str | None = None,
        stats: Stats | None = None,
    ) -> str:
        written = compact(logprobs) if logprobs is not None else "null"
        reason = f'"{finish_reason}"' if finish_reason else "null"
        extra = f',"timings":{compact(timings([stats]))}' if stats is not None else ""
        return (
            f'{self._head},"choices":[{{"index":{index},{self._shown(text)},"logprobs":{written},'
            f'"finish_reason":{reason}}}]{extra}{self._tail}'
        )

    def _usage(self) -> dict[str, Any]:
        """Count the tokens, for the reply and for the log; each prompt once, as its answers share it."""
        per_prompt = self._completions[:: self._body.n_candidates]
        n_cached = sum(one.stream.stats.n_cached for one in per_prompt if one.stream is not None)
        n_generated = sum(one.n_generated for one in self._stats)
        n_prompt = sum(len(prompt.ids) for prompt in self._prompts)
        note_tokens(self._request, self._model.name, n_prompt, n_cached, n_generated)
        return usage(n_prompt, n_cached, n_generated)
