"""The prompt of /api/generate: through the chat template, or as text that is continued as it is."""

from typing import Any

from llmrun.cli.server.ollama_request import GenerateBody
from llmrun.cli.server.ollama_template import render_template
from llmrun.quant_formats.errors import PromptTooLong, TemplateError, UsageError
from llmrun.runner.chat_template import ChatTemplate
from llmrun.runner.engine import Engine
from llmrun.runner.fill_in import FillIn

_ANSWER = "an answer that only marks its place"  # nothing that a template would change


def chat_prompt(body: GenerateBody) -> tuple[dict[str, Any], ...]:
    """The messages of a prompt that goes through the chat template."""
    system = ({"role": "system", "content": body.system},) if body.system else ()
    return (*system, {"role": "user", "content": body.prompt or ""})


def text_prompt(body: GenerateBody, engine: Engine) -> list[int] | None:
    """The ids of a prompt that does without the chat template, or goes on from `context`; None for any other.

    Raises UsageError for fields that do not go together.
    """
    prompt = body.prompt or ""
    if body.raw:
        _refuse(body, "raw", "system", "template", "context", "suffix")
        return engine.tokenize(prompt)
    if body.suffix:
        _refuse(body, "suffix", "system", "template", "context")
        return _between(body, engine)
    if body.template:
        ids = engine.tokenize(render_template(body.template, {"System": body.system or "", "Prompt": prompt}))
        return [*(body.context or ()), *_without_bos(ids, engine, bool(body.context))]
    if body.context:
        _refuse(body, "context", "system")
        return [*body.context, *engine.tokenizer.encode(_next_turn(engine.chat_template, prompt), add_special=False)]
    if engine.chat_template is None:
        if body.system:
            raise UsageError("system is not supported by this model, which has no chat template; put it in the prompt")
        return engine.tokenize(prompt)
    return None


def _between(body: GenerateBody, engine: Engine) -> list[int]:
    """The prompt for what stands between prompt and suffix; it is cut only if the request allows that."""
    markers = fill_in_of(engine, body.model)
    max_tokens = body.options.num_predict if body.options else None
    n_ctx = min(engine.n_ctx, body.options.num_ctx or engine.n_ctx) if body.options else engine.n_ctx
    n_predict = max_tokens if max_tokens is not None and max_tokens > 0 else None
    filled = markers.prompt(body.prompt or "", body.suffix or "", n_ctx=n_ctx, n_predict=n_predict)
    n_left_out = filled.n_prefix_left_out + filled.n_suffix_left_out
    if n_left_out and not body.truncate:
        n_prompt = len(filled.ids) + n_left_out
        raise PromptTooLong(
            f"prompt and suffix have {n_prompt} tokens, which leave too little of a context of {n_ctx} for an answer; "
            "send less, or set truncate to true",
            n_prompt=n_prompt,
            n_ctx=n_ctx,
        )
    return filled.ids


def fill_in_of(engine: Engine, name: str) -> FillIn:
    """The markers of a model that can fill in; raises UsageError for another."""
    markers = FillIn.of(engine.tokenizer)
    if markers is None:
        raise UsageError(f"{name[:100]} does not support insert; leave suffix out, or choose a model that can fill in")
    return markers


def _next_turn(template: ChatTemplate | None, prompt: str) -> str:
    """What a template writes after an answer when the user goes on: the end of the answer's turn and the next one."""
    if template is None:
        return prompt
    messages = [
        {"role": "user", "content": _ANSWER},
        {"role": "assistant", "content": _ANSWER},
        {"role": "user", "content": prompt},
    ]
    before, mark, _ = template.render(messages[:2], add_generation_prompt=False).rpartition(_ANSWER)
    rendered = template.render(messages)
    if not mark or not rendered.startswith(before + mark):
        raise TemplateError("the model's chat template cannot go on from a context; send the messages to /api/chat")
    return rendered[len(before + mark) :]


def _without_bos(ids: list[int], engine: Engine, continues: bool) -> list[int]:
    return ids[1:] if continues and ids[:1] == [engine.tokenizer.bos_id] else ids


def _refuse(body: GenerateBody, field: str, *others: str) -> None:
    given = next((name for name in others if getattr(body, name)), None)
    if given is not None:
        raise UsageError(f"{field} and {given} cannot be combined; leave one of them out")
