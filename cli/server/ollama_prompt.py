"""The prompt of /api/generate: through the chat template, or as text that is continued as it is."""

from typing import Any

from llmrun.cli.server.ollama_request import GenerateBody
from llmrun.cli.server.ollama_template import render_template
from llmrun.quant_formats.errors import TemplateError, UsageError
from llmrun.runner.chat_template import ChatTemplate
from llmrun.runner.engine import Engine
from llmrun.runner.fill_in import fill_in_prompt

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
        return fill_in_prompt(engine.tokenizer, prompt, body.suffix)
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
