"""The prompts of llama-server's requests: texts, ids, and both mixed."""

from typing import Any

from llmrun.cli.server.llama_request import Prompt
from llmrun.quant_formats.errors import UsageError
from llmrun.runner.engine import Engine

MAX_PROMPTS = 64  # of one request


def prompts_of(prompt: Prompt | None, engine: Engine, name: str = "prompt") -> list[list[int]]:
    """The ids of every prompt of a request; several if it is a list of prompts.

    A list of ids, or of ids and texts, is one prompt. Text gets BOS in front where the model wants it and the prompt
    begins with text. Raises UsageError for what is none of this.
    """
    if prompt is None:
        raise UsageError(f"{name} is missing")
    if not isinstance(prompt, list) or any(_is_id(part) for part in prompt):
        return [_ids(prompt, engine, name)]
    if not prompt:
        raise UsageError(f"{name} is an empty list; give a text or ids")
    if len(prompt) > MAX_PROMPTS:
        raise UsageError(f"{name} has {len(prompt)} prompts; at most {MAX_PROMPTS} fit one request")
    return [_ids(part, engine, f"{name}[{i}]") for i, part in enumerate(prompt)]


def _ids(prompt: Any, engine: Engine, name: str) -> list[int]:
    if isinstance(prompt, dict):
        if prompt.get("multimodal_data"):
            raise UsageError(f"{name}.multimodal_data is not supported: no model here sees or hears; leave it out")
        unknown = set(prompt) - {"prompt_string", "multimodal_data"}
        if unknown:
            raise UsageError(f"{name}.{min(unknown)[:40]} is not a known field")
        prompt = prompt.get("prompt_string")
    if isinstance(prompt, str):
        return engine.tokenize(prompt)
    if not isinstance(prompt, list):
        raise UsageError(f"{name} must be a text, or a list of ids and texts")
    ids: list[int] = []
    for i, part in enumerate(prompt):
        if _is_id(part):
            ids.append(part)
        elif isinstance(part, str):
            ids += engine.tokenize(part) if i == 0 else engine.tokenizer.encode(part, add_special=False)
        else:
            raise UsageError(f"{name}[{i}] must be an id or a text")
    return ids


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
