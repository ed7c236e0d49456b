"""Fill in the middle in the shape that Mistral gave it and editors ask for."""

from typing import Annotated, Any

from fastapi import Request
from fastapi.responses import Response

from llmrun.cli.server.errors import ApiRouter
from llmrun.cli.server.json_text import quoted
from llmrun.cli.server.openai_completion import Completion
from llmrun.cli.server.openai_completion_request import CompletionRequest
from llmrun.cli.server.openai_completions import Completions, answer
from llmrun.cli.server.openai_fields import Label, RequestFields, one_of, only

router = ApiRouter("openai")


class FillRequest(RequestFields):
    """All parameters of `POST /v1/fim/completions`."""

    prompt: str
    metadata: Label = None
    min_tokens: Annotated[int | None, only(0)] = None
    random_seed: int | None = None
    suffix: str | None = None

    def as_completion(self) -> CompletionRequest:
        """Return the completion that it is; without a limit of its own, it goes on until it is complete."""
        given = self.model_dump(exclude_none=True, exclude={"metadata", "min_tokens", "random_seed"})
        given["seed"] = one_of(seed=self.seed, random_seed=self.random_seed)
        return CompletionRequest(**{"suffix": "", "max_tokens": -1, **given})


@router.post("/fim/completions", include_in_schema=False)
@router.post("/v1/fim/completions")
async def fill_in(body: FillRequest, request: Request) -> Response:
    """Write what is missing between a text and its suffix."""
    return await answer(FillIns, body.as_completion(), request)


class FillIns(Completions):
    """The answers to one request; they look like those of a chat."""

    ID, OBJECT, CHUNK = "fim", "chat.completion", "chat.completion.chunk"

    def _choice(self, completion: Completion, index: int) -> dict[str, Any]:
        choice = completion.choice(index)
        return {
            "index": index,
            "message": {"role": "assistant", "content": choice["text"]},
            "finish_reason": choice["finish_reason"],
        }

    def _shown(self, text: str) -> str:
        return f'"delta":{{"role":"assistant","content":{quoted(text)}}}'
