"""From a model file to tokens: tokenizer, model, KV cache, sampler, engine."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmrun.runner.chat import Chat
    from llmrun.runner.engine import Engine
    from llmrun.runner.generation import Generation
    from llmrun.runner.sampler import SamplingParams
    from llmrun.runner.session import Session
    from llmrun.runner.session_store import SessionStore

__all__ = ["Chat", "Engine", "Generation", "SamplingParams", "Session", "SessionStore"]

_HOME = {
    "Chat": "chat",
    "Engine": "engine",
    "Generation": "generation",
    "SamplingParams": "sampler",
    "Session": "session",
    "SessionStore": "session_store",
}


def __getattr__(name: str) -> Any:
    """Import what is exported when it is first asked for, so that a module of this folder stays cheap to import."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
